"""Scoring models whose parameters are spread over processes (`fully_shard`), without a full copy anywhere.

Every process computes with its parts of the weights. Layers are gathered one at a time, when the forward or the
backward pass comes to them. Other rooms import from here only.
"""

from foreprune.sharded.layout import Layout
from foreprune.sharded.sharded_method import make_sharded, scores_sharded
from foreprune.sharded.sharded_net import ShardedNet

__all__ = ["Layout", "ShardedNet", "make_sharded", "scores_sharded"]
