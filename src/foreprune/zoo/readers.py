"""Files of image data sets to tensors: IDX, encoded images, Parquet and folders. Every file is untrusted.

Each reader raises `ValueError` naming the file when it is damaged or not what its name promises.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
_IMAGE_FORMATS = ("JPEG", "PNG")  # no other decoder of Pillow sees the files
_LARGEST_IDX = 2**30  # MNIST is 47 million bytes, the largest EMNIST 550 million


def threads() -> int:
    """How many threads decode images: one for each processor this process may use, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, usable)


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Unsigned bytes of an IDX file, the format of MNIST, gzipped if its name ends in `.gz`.

    The header is two zero bytes, 0x08 for unsigned bytes, the number of dimensions, and each size as a big-endian
    32-bit number (LeCun, Cortes and Burges).

    Returns:
        uint8 tensor of the sizes in the header.

    Raises:
        ValueError: not such a file, another number of dimensions, or more or fewer bytes than its header announces.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes((0, 0, 8, dimensions)):
                raise ValueError(
                    f"{path} is no IDX file of unsigned bytes in {dimensions} dimensions: it starts with "
                    f"{header[:4].hex(' ') or 'nothing'}, not {bytes((0, 0, 8, dimensions)).hex(' ')}"
                )
            if len(header) < 4 + 4 * dimensions:
                raise ValueError(f"{path} ends inside its header; fetch it again")
            shape = [int.from_bytes(header[4 * index : 4 * index + 4], "big") for index in range(1, dimensions + 1)]
            if math.prod(shape) > _LARGEST_IDX:  # before memory is asked for
                raise ValueError(
                    f"{path} announces {math.prod(shape)} bytes of data ({shape}), more than {_LARGEST_IDX}"
                )
            body = file.read(math.prod(shape) + 1)  # one byte more, to notice a file that is too long
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    if len(body) != math.prod(shape):
        found = f"only {len(body)}" if len(body) < math.prod(shape) else "more"
        raise ValueError(
            f"{path} announces {math.prod(shape)} bytes of data ({shape}) and holds {found}; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(bytearray(body), dtype=np.uint8).reshape(shape))


def pillow() -> Any:
    """The module `PIL.Image`.

    Raises:
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("decoding images needs Pillow: pip install 'foreprune[data]'") from error
    Image.preinit()  # registers the formats once, before threads would race for it
    return Image


def open_image(source: Path | bytes, *, name: str, size: tuple[int, int] | None = None) -> Any:
    """A JPEG or PNG as a fully decoded RGB `PIL.Image.Image`.

    Args:
        source: a file, or its contents.
        name: what to call it in a message.
        size: (H, W) that it must have.

    Raises:
        ValueError: not such an image, or of another size.
    """
    image_module = pillow()
    try:
        with image_module.open(
            BytesIO(source) if isinstance(source, bytes) else source, formats=_IMAGE_FORMATS
        ) as image:
            if size is None or (image.height, image.width) == size:
                return image.convert("RGB")
            found = f"{image.height}x{image.width}"
    except (OSError, SyntaxError, ValueError, EOFError, image_module.DecompressionBombError) as error:
        raise ValueError(f"{name} is not a readable JPEG or PNG image: {error}") from error
    raise ValueError(f"{name} has {found} pixels; this data set has {size[0]}x{size[1]}")


def to_pixels(image: Any) -> Tensor:
    """(3, H, W) uint8 of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decode_images(sources: Sequence[Path | bytes], *, names: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Decode images of one size, several at a time.

    Args:
        sources: files, or their contents.
        names: what to call each of them in a message.
        size: (H, W) that every image must have.

    Returns:
        (N, 3, H, W) uint8.

    Raises:
        ValueError: an image that cannot be read or has another size.
    """
    images = torch.empty((len(sources), 3, *size), dtype=torch.uint8)
    pillow()

    def decode(chunk: range) -> None:
        for index in chunk:
            images[index] = to_pixels(open_image(sources[index], name=names[index], size=size))

    chunks = [range(start, min(start + 256, len(sources))) for start in range(0, len(sources), 256)]
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(decode, chunks):
            pass
    return images


def read_parquet(
    paths: Iterable[Path], *, label_columns: tuple[str, ...], size: tuple[int, int]
) -> tuple[Tensor, Tensor, bool]:
    """Encoded images and labels of Parquet files, in order.

    Images are in the column `img` or `image`, as bytes or as a structure with a field `bytes`; labels are whole numbers
    in the first of `label_columns` that exists.

    Returns:
        images (N, 3, H, W) uint8, labels (N,) int64, and whether any image is a JPEG, hence not lossless.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: a file that is no Parquet, lacks a column, has an empty or unreadable image, or no whole-number
        labels.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("reading Parquet files needs pyarrow: pip install 'foreprune[data]'") from error
    sources: list[Path | bytes] = []
    names: list[str] = []
    labels: list[Tensor] = []
    for path in paths:
        try:
            available = parquet.read_schema(path).names
            columns = [_first_column(path, candidates, available) for candidates in (("img", "image"), label_columns)]
            table = parquet.read_table(path, columns=columns)
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
        cells = table.column(columns[0]).to_pylist()
        for row, cell in enumerate(cells):
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if not isinstance(content, bytes):
                raise ValueError(f"{path}, row {row}: column {columns[0]!r} holds no encoded image")
            sources.append(content)
            names.append(f"{path}, row {row}, column {columns[0]!r}")
        column = table.column(columns[1])
        if not arrow.types.is_integer(column.type) or column.null_count:
            raise ValueError(f"{path}: column {columns[1]!r} must hold a whole number in each row, not {column.type}")
        labels.append(torch.from_numpy(column.to_numpy().astype(np.int64)))
    lossy = any(isinstance(source, bytes) and source.startswith(b"\xff\xd8") for source in sources)
    return decode_images(sources, names=names, size=size), torch.cat(labels), lossy


def _first_column(path: Path, candidates: tuple[str, ...], available: Sequence[str]) -> str:
    for name in candidates:
        if name in available:
            return name
    raise ValueError(f"{path} needs a column {' or '.join(candidates)}; it has {', '.join(available)}")


def list_class_folders(folder: Path, *, inside: str = "") -> tuple[tuple[str, ...], list[str], list[int]]:
    """Images of `folder/<class>/[inside/]*.JPEG`, classes and files in alphabetical order.

    Returns:
        class names, paths relative to `folder`, and the index of each one's class.

    Raises:
        ValueError: no class folders, or one without images.
    """
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise ValueError(f"{folder} has no class folders; expected {folder / '<class>' / inside / '*.JPEG'}")
    files: list[str] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        found = sorted(_image_names(folder / name / inside))
        if not found:
            raise ValueError(f"{folder / name / inside} has no images (files ending in .JPEG, .jpg or .png)")
        prefix = f"{name}/{inside}/" if inside else f"{name}/"
        files += [prefix + file for file in found]
        labels += [index] * len(found)
    return classes, files, labels


def _image_names(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.lower().endswith(_IMAGE_SUFFIXES):
                yield entry.name


def read_annotations(path: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """TinyImageNet's `val_annotations.txt`: file name, class, box, separated by tabs.

    Returns:
        file names and the index of each one's class in `classes`.

    Raises:
        ValueError: no line, a line without two fields, a class that is not known, or a file name with a folder in it.
    """
    number = {name: index for index, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    for row, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in number:
            raise ValueError(
                f"{path}, line {row}: expected a file name and one of the training classes, not {line[:80]!r}"
            )
        if Path(fields[0]).name != fields[0]:
            raise ValueError(f"{path}, line {row}: {fields[0]!r} is no plain file name")
        files.append(fields[0])
        labels.append(number[fields[1]])
    if not files:
        raise ValueError(f"{path} is empty")
    return files, labels
