"""The torch operations that paths can follow, each name in one family. A name added here is known to every reading."""

from __future__ import annotations

from enum import Enum


class Family(Enum):
    """Functions and tensor methods that mean the same to a path, by name without underscores at its ends."""

    # gates: with its gate open, an operation passes its input on
    ACTIVATION = """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh softplus softsign threshold
        rrelu prelu tanhshrink hardshrink softshrink clamp clip clamp_min clamp_max log_sigmoid"""
    SQUASHING = "sigmoid hardsigmoid tanh"  # often a gate that multiplies other activations
    DROPOUT = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout"
    NORMALIZATION = "batch_norm instance_norm layer_norm group_norm rms_norm local_response_norm normalize"
    PASSING = "neg log_softmax"
    GATED_LINEAR_UNIT = "glu"
    SOFTMAX = "softmax softmin"
    SCALE_FUNCTION = "pow square sqrt rsqrt reciprocal exp log log1p abs erf sin cos rdiv rpow"
    STATISTIC = "std var std_mean var_mean norm linalg_norm linalg_vector_norm"

    # weighted sums
    LINEAR = "linear"
    CONVOLUTION = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"
    MATRIX_PRODUCT = "matmul rmatmul mm bmm mv dot einsum tensordot spmm sparse_mm"
    ADDED_PRODUCT = "addmm addmv baddbmm addbmm"  # bias + a @ b
    ATTENTION = "scaled_dot_product_attention"
    MULTI_HEAD_ATTENTION = "multi_head_attention_forward"
    EMBEDDING = "embedding"

    # arithmetic
    ADDITION = "add sub subtract rsub radd"
    MULTIPLICATION = "mul multiply rmul"
    DIVISION = "div divide truediv true_divide"
    COMPOSED = "addcmul addcdiv lerp"  # followed as the products and sums they are

    # pooling and reduction
    MAX_POOLING = "max_pool1d max_pool2d max_pool3d"
    INDEXED_MAX_POOLING = "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    ADAPTIVE_MAX_POOLING = "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
    AVERAGE_POOLING = "avg_pool1d avg_pool2d avg_pool3d"
    ADAPTIVE_AVERAGE_POOLING = "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
    RESIZING = "interpolate upsample"
    MEAN = "mean"
    SUM = "sum"
    LARGEST = "amax"
    MAXIMUM = "max"  # of everything, along an axis, of two tensors
    LARGER = "maximum fmax"
    OVERLAPPING_SUM = "cumsum fold"
    ACCUMULATION = "index_add scatter_add"  # sums over the edges of a graph

    # structure: entries are rearranged, selected, copied
    STRUCTURE = """view view_as reshape reshape_as ravel flatten unflatten permute transpose t swapaxes swapdims movedim
        moveaxis contiguous clone detach squeeze unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile
        getitem get select narrow index_select gather take_along_dim chunk split tensor_split split_with_sizes unbind
        stack hstack vstack dstack roll flip rot90 unfold pixel_shuffle pixel_unshuffle channel_shuffle diagonal tril
        triu nan_to_num positive"""
    CONCATENATION = "cat concat concatenate"
    PADDING = "pad"
    MASKING = "masked_fill"
    SELECTION = "where"
    ASSIGNMENT = "setitem"
    COPY = "copy"  # into a tensor
    CONVERSION = "to float half double bfloat16 type type_as cpu cuda"
    CREATION = """zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
        new_tensor"""


FAMILIES: dict[str, Family] = {name: family for family in Family for name in family.value.split()}
LOOKUPS = frozenset({"getitem", "gather", "index_select", "take", "take_along_dim"})  # by integers, in a table

_CHOICE = ": it picks by value, as routers of experts do, so which paths there are depends on the input"
_CELL = ": a recurrent cell multiplies sums over paths at every step"
WHY_NOT = {
    **dict.fromkeys(("topk", "sort", "argsort", "multinomial"), _CHOICE),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"), _CELL),
    **dict.fromkeys(
        ("fft_fft", "fft_fft2", "fft_fftn", "fft_rfft", "fft_rfft2"), ": its coefficients are complex numbers"
    ),
}


def family_of(name: str) -> Family | None:
    """The family of a function's `__name__`, also of its form in place; None if paths cannot follow it."""
    return FAMILIES.get(name.strip("_"))
