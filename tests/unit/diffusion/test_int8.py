"""Linear layers in 8 bits: how far they are off, what they take, and that no row sees its neighbours."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from marsam.core.errors import Invalid
from marsam.diffusion.held.net import prepare, whole
from marsam.diffusion.int8.net import Int8Linear
from marsam.diffusion.precision import QUANTISATIONS, Precision, Quantisation
from marsam.diffusion.weights.net import bytes_at_rest, stream

INT8 = Quantisation.of("int8")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 48)
        self.kept = nn.Linear(48, 8)
        self.last = nn.Linear(48, 8, bias=False)


def _held(folder: Path, tensors: dict[str, torch.Tensor], precision: Precision = Precision.FP32) -> _Net:
    save_file(tensors, folder / "net.safetensors")
    with torch.device("meta"):
        net = _Net()
    place = prepare(net, keep=("kept",), quantisation=INT8, precision=precision, device="cpu")
    stream(net, [folder / "net.safetensors"], precision=precision, device="cpu", place=place)
    return net


def test_every_number_is_within_half_a_step_and_zeros_stay_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = _Net()
    with torch.no_grad():
        plain.first.weight[3] = 0.0
        plain.first.weight[4] *= 1e-3
    net = _held(tmp_path, plain.state_dict())
    assert type(net.kept) is nn.Linear and torch.equal(net.kept.weight, plain.kept.weight)
    for ours, theirs in ((net.first, plain.first), (net.last, plain.last)):
        assert isinstance(ours, Int8Linear) and ours.weight.dtype == torch.int8
        steps = theirs.weight.abs().amax(dim=1, keepdim=True) / 127
        assert ((whole(ours) - theirs.weight).abs() <= steps / 2 * 1.0001).all()
        x = torch.randn(5, ours.in_features)
        assert torch.equal(ours(x), nn.functional.linear(x, whole(ours), theirs.bias))
    assert not whole(net.first)[3].any()
    assert bytes_at_rest(net) == (32 * 48 + 48 * 8) + 4 * (48 + 8) + 4 * 48 + 4 * (48 * 8 + 8)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_row_does_not_depend_on_what_its_neighbours_hold(tmp_path: Path, precision: Precision) -> None:
    torch.manual_seed(0)
    net = _held(tmp_path, _Net().state_dict(), precision)
    rows = torch.randn(4, 6, 32).to(net.kept.weight.dtype)
    calm = net.first(rows)
    assert calm.dtype == rows.dtype
    wild = rows.clone()
    wild[1] = torch.inf
    wild[2] = 3e4
    assert torch.equal(net.first(wild)[[0, 3]], calm[[0, 3]])


def test_labels_go_there_and_back() -> None:
    assert [Quantisation.of(label).label() for label in QUANTISATIONS] == list(QUANTISATIONS)
    for label in ("int8+dq", "int4", "", "nf4+"):
        with pytest.raises(Invalid) as caught:
            Quantisation.of(label)
        assert caught.value.reason == "QUANTISATION_UNKNOWN"
    with pytest.raises(Invalid):
        Quantisation(kind="int8")
