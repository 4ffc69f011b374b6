"""What a run is, what it measured, and where records are kept. Nothing here imports torch."""

try:
    import pydantic as _  # noqa: F401
except ImportError as error:
    raise ImportError("records of runs need pydantic: pip install 'foreprune[cli]'", name="pydantic") from error
