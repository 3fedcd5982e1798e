"""A safetensors file that is written piece by piece has the bytes that the library writes, and rows are read alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hanlin.core.errors import UserError
from hanlin.models.folder.checks import check_safetensors
from hanlin.models.safetensors import read_rows, write_safetensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"model.norm": (7,), "a.层": (5, 3), "model.layers.10.w": (4, 2, 3), "model.layers.2.w": (1, 1)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_file_written_in_pieces_has_the_bytes_of_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = random_tensors()
    save_file({name: value.to(dtype) for name, value in tensors.items()}, tmp_path / "whole", metadata={"format": "pt"})
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    write_safetensors(tmp_path / "pieces", shapes, dtype, lambda name: tensors[name].split(2))
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_of_several_dtypes_has_the_bytes_of_the_library_too(tmp_path: Path) -> None:
    tensors = random_tensors()
    dtypes = dict.fromkeys(tensors, torch.bfloat16) | {"model.norm": torch.float32, "model.layers.2.w": torch.float32}
    whole = {name: value.to(dtypes[name]) for name, value in tensors.items()}
    save_file(whole, tmp_path / "whole", metadata={"format": "pt"})
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    write_safetensors(tmp_path / "pieces", shapes, dtypes, lambda name: tensors[name].split(2))
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_read_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: value.to(dtype) for name, value in random_tensors().items()}
    save_file(tensors, tmp_path / "file")
    for name, entry in check_safetensors(tmp_path / "file").items():
        assert torch.equal(read_rows(entry), tensors[name])
        assert torch.equal(read_rows(entry, 1, 3), tensors[name][1:3])


def test_pieces_that_are_not_the_whole_tensor_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="w has 4 entries instead of 6"):
        write_safetensors(tmp_path / "file", {"w": (3, 2)}, torch.float32, lambda name: [torch.ones(2, 2)])
    assert not any(tmp_path.iterdir())


def test_a_file_that_was_cut_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    save_file(random_tensors(), tmp_path / "file")
    entries = check_safetensors(tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(data[:-20])
    with pytest.raises(UserError, match="became shorter"):
        for entry in entries.values():
            read_rows(entry)
