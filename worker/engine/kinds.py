"""What the parts of a layer amount to: from each kind of adapter to the change of a weight or a bias.

Where kinds have conventions of their own, these are LyCORIS' (`lycoris/modules/*.py`), whose names the keys
have, and PEFT's (`peft/tuners/{lora,loha,lokr}`), which agree but for what is said below.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from worker.engine.adapter import Delta
from worker.engine.contract import AdapterFault
from worker.engine.layers import Layer
from worker.engine.matrices import Dense, Hadamard, Kronecker, Matrix, Product, Tucker
from worker.engine.scales import LoraConfig

MAX_RANK = 512
"""Of a product's inner dimension; a Tucker core has two."""

CONTROL_INPUT = "x_embedder"
"""FLUX's input layer; a Control LoRA feeds it a picture beside the latents."""

_BIASES = ("lora_B.bias", "diff_b", "b_norm")
_MAGNITUDES = ("dora_scale", "lora_magnitude_vector")


def bias_delta(layer: Layer, shape: Sequence[int], config: LoraConfig | None) -> Delta:
    """Return the change of the layer's bias, which has to be taken before that of its weight.

    Raises:
        AdapterFault: it does not fit.
    """
    (part,) = bias_parts(layer)
    # PEFT's bias stands behind the factors and is scaled with them
    scale = 1.0
    if part == "lora_B.bias" and "lora_down" in layer.parts:
        scale = _scale(layer, _rank(layer, layer.parts["lora_down"]), config)
    return Delta(matrix=_whole(layer, part, shape), scale=scale)


def bias_parts(layer: Layer) -> list[str]:
    """Return the parts that change the bias.

    Raises:
        AdapterFault: there are several.
    """
    found = [part for part in _BIASES if part in layer.parts]
    if len(found) > 1:
        raise AdapterFault(f"{layer.label}: changes its bias twice, by {' and '.join(found)}")
    return found


def weight_delta(layer: Layer, shape: Sequence[int], config: LoraConfig | None) -> Delta:
    """Return the change of the layer's weight, of `shape`; uses its parts up.

    Raises:
        AdapterFault: a part is missing, does not fit, or belongs to another kind than the rest.
    """
    magnitudes = [part for part in _MAGNITUDES if part in layer.parts]
    kinds = {part.partition("_")[0] for part in layer.parts.keys() - set(magnitudes)}
    builds = [build for prefix, build in _KINDS.items() if prefix in kinds]
    if len(builds) != 1 or len(magnitudes) > 1:
        raise AdapterFault(f"{layer.label}: its parts are no one kind of adapter: {_listed(layer)}")
    if len(shape) == 1 and builds[0] is not _full:
        raise AdapterFault(f"{layer.label}: is a norm; only differences are served for norms")
    if config and config.dora and not magnitudes:
        raise AdapterFault(f"{layer.label}: has no magnitude, but the config in the header says DoRA")
    magnitude = _magnitude(layer, magnitudes[0], shape) if magnitudes else None
    matrix, scale = builds[0](layer, shape, config)
    if layer.parts:
        raise AdapterFault(f"{layer.label}: nothing is known to be done with its {_listed(layer)}")
    return Delta(matrix=matrix, scale=scale, magnitude=magnitude)


def _low_rank(layer: Layer, shape: Sequence[int], config: LoraConfig | None) -> tuple[Matrix, float]:
    """Return a LoRA or a LoCon: `up @ down`, or with a middle, `up`, kernel, `down`.

    A convolution's `down` has the kernel, its `up` is 1x1, so their product is one of matrices. With a
    middle, `down` is 1x1, too, and the middle has the kernel.
    """
    down, up = layer.take("lora_down"), layer.take("lora_up")
    rank = _rank(layer, down)
    if layer.module == CONTROL_INPUT and down.shape[1:].numel() > math.prod(shape[1:]):
        raise AdapterFault(f"{layer.label}: a Control LoRA, which widens the base's input, is not served")
    scale = _scale(layer, rank, config)
    if "lora_mid" in layer.parts:
        core = layer.take("lora_mid")
        return _tucker(layer, core, up, down, shape, transposed=False), scale
    rows, columns = shape[0], math.prod(shape[1:])
    matrix = Product(
        up=_reshaped(layer, up, rows, rank, shape), down=_reshaped(layer, down, rank, columns, shape)
    )
    return matrix, scale


def _loha(layer: Layer, shape: Sequence[int], config: LoraConfig | None) -> tuple[Matrix, float]:
    """Return `(w1_a @ w1_b) * (w2_a @ w2_b)`, either side with a Tucker core where it has one."""
    rank = _rank(layer, layer.parts.get("hada_w1_b"))
    scale = _scale(layer, rank, config)
    tucker = "hada_t1" in layer.parts or "hada_t2" in layer.parts
    sides: list[Matrix] = []
    for number in "12":
        left, right = layer.take(f"hada_w{number}_a"), layer.take(f"hada_w{number}_b")
        if tucker:
            core = layer.take(f"hada_t{number}")
            sides.append(_tucker(layer, core, left, right, shape, transposed=True))
        else:
            sides.append(_product(layer, left, right, (shape[0], math.prod(shape[1:])), shape))
    return Hadamard(left=sides[0], right=sides[1]), scale


def _lokr(layer: Layer, shape: Sequence[int], config: LoraConfig | None) -> tuple[Matrix, float]:
    """Return `kron(w1, w2)`, each whole or a product of two, `w2` perhaps with a Tucker core.

    Two whole ones have no rank: LyCORIS takes 1 as their scale, whatever alpha says; PEFT, whose config
    says it, `alpha / r`.
    """
    kernel = math.prod(shape[2:])
    ranks = [_rank(layer, layer.parts[part]) for part in ("lokr_w2_b", "lokr_w1_b") if part in layer.parts]
    if ranks:
        scale = _scale(layer, ranks[0], config)
    else:
        scale = 1.0 if config is None else config.scale(layer.module, None)
    left = _lokr_side(layer, "lokr_w1", shape)
    if "lokr_t2" in layer.parts:
        core, up, down = (layer.take(part) for part in ("lokr_t2", "lokr_w2_a", "lokr_w2_b"))
        if not up.ndim or not down.ndim:
            raise _misfit(layer, [up, down], shape)
        right_shape = (up.shape[-1], down.shape[-1], *shape[2:])
        right: Matrix = _tucker(layer, core, up, down, right_shape, transposed=True)
    else:
        right = _lokr_side(layer, "lokr_w2", shape)
    matrix = Kronecker(left=left, right=right)
    if matrix.shape != (shape[0], math.prod(shape[1:])) or right.shape[1] % kernel:
        raise _misfit(layer, [*left.factors, *right.factors], shape)
    return matrix, scale


def _lokr_side(layer: Layer, part: str, shape: Sequence[int]) -> Matrix:
    if part in layer.parts:
        whole = layer.take(part)
        if whole.ndim not in (2, 4) or not whole.numel():
            raise _misfit(layer, [whole], shape)
        return Dense(values=whole.flatten(1))
    left, right = layer.take(f"{part}_a"), layer.take(f"{part}_b")
    if left.ndim != 2 or right.ndim not in (2, 4) or not left.numel() or not right.numel():
        raise _misfit(layer, [left, right], shape)
    return _product(layer, left, right, (left.shape[0], math.prod(right.shape[1:])), shape)


def _full(layer: Layer, shape: Sequence[int], _config: LoraConfig | None) -> tuple[Matrix, float]:
    """Return a difference as it is; neither LyCORIS nor ComfyUI scales one by alpha."""
    return _whole(layer, "w_norm" if "w_norm" in layer.parts else "diff", shape), 1.0


def _whole(layer: Layer, part: str, shape: Sequence[int]) -> Dense:
    values = layer.take(part)
    if not _fits(values.shape, tuple(shape)):
        raise _misfit(layer, [values], shape)
    return Dense(values=values.reshape(shape[0], math.prod(shape[1:])))


_KINDS: dict[str, Callable[[Layer, Sequence[int], LoraConfig | None], tuple[Matrix, float]]] = {
    "lora": _low_rank,
    "hada": _loha,
    "lokr": _lokr,
    "diff": _full,
    "w": _full,
}
"""By what the names of their parts begin with."""


def _product(
    layer: Layer, up: Tensor, down: Tensor, wanted: tuple[int, int], shape: Sequence[int]
) -> Product:
    rank = _rank(layer, down)
    return Product(
        up=_reshaped(layer, up, wanted[0], rank, shape), down=_reshaped(layer, down, rank, wanted[1], shape)
    )


def _tucker(
    layer: Layer, core: Tensor, up: Tensor, down: Tensor, shape: Sequence[int], *, transposed: bool
) -> Tucker:
    """Return a kernel of low rank: `core` is `[p, q, height, width]`; `transposed`: `up` is `[p, out]`."""
    rows, channels, *kernel = shape
    if core.ndim != 4 or not kernel or list(core.shape[2:]) != kernel:
        raise _misfit(layer, [core], shape)
    first, second = _rank(layer, core), _rank(layer, core[0])
    up_shape = (first, rows) if transposed else (rows, first)
    left = _reshaped(layer, up, *up_shape, shape)
    right = _reshaped(layer, down, second, channels, shape)
    return Tucker(core=core.flatten(2), up=left.T if transposed else left, down=right)


def _magnitude(layer: Layer, part: str, shape: Sequence[int]) -> Tensor:
    """Return a DoRA's magnitude so that it broadcasts over its weight.

    PEFT's is per output, as `[out]` or for convolutions as `[1, out, 1, 1]`. Of Kohya's the shape tells:
    `[out, 1, ...]` is per output, `[1, in, ...]` per input (LyCORIS' `wd_on_out`).
    """
    values = layer.take(part)
    out, *rest = shape
    ones = [1] * len(rest)
    per_output = part == "lora_magnitude_vector" or values.ndim == 1 or values.shape[:1] == (out,)
    if rest and values.numel() == out and per_output:
        return values.reshape(out, *ones)
    if rest and values.numel() == rest[0] and values.shape[:2] == (1, rest[0]):
        return values.reshape(1, rest[0], *ones[1:])
    raise _misfit(layer, [values], shape)


def _rank(layer: Layer, factor: Tensor | None) -> int:
    if factor is None:
        raise AdapterFault(f"{layer.label}: a factor is missing; there are {_listed(layer)}")
    rank = factor.shape[0] if factor.ndim else 0
    if not 1 <= rank <= MAX_RANK:
        raise AdapterFault(f"{layer.label}: rank {rank}; ranks from 1 to {MAX_RANK} are served")
    return rank


def _scale(layer: Layer, rank: int, config: LoraConfig | None) -> float:
    """Return what alpha and rank amount to; files without either mean 1 (diffusers' convention).

    Each layer has the alpha that the file gives it. diffusers 0.42 gives some layers the alpha of the
    majority where a Kohya file has several: it looks them up by names that its own conversion changed.
    """
    if config is None:
        alpha = rank if layer.alpha is None else layer.alpha
        if not math.isfinite(alpha):
            raise AdapterFault(f"{layer.label}: its alpha is {alpha}")
        return alpha / rank
    if layer.alpha is not None:
        raise AdapterFault(f"{layer.label}: alpha is given twice, by a key and by the config in the header")
    return config.scale(layer.module, rank)


def _reshaped(layer: Layer, factor: Tensor, rows: int, columns: int, shape: Sequence[int]) -> Tensor:
    """Return a factor as a matrix; some files hold one as a convolution: 1x1, or of the weight's kernel."""
    if factor.shape == (rows, columns):
        return factor
    has_its_numbers = 2 <= factor.ndim <= 4 and factor.shape[0] == rows and factor.numel() == rows * columns
    if not has_its_numbers or (factor.shape[1] != columns and factor.shape[2:] != tuple(shape[2:])):
        raise _misfit(layer, [factor], shape)
    return factor.reshape(rows, columns)


def _fits(shape: Sequence[int], wanted: tuple[int, ...]) -> bool:
    """Whether the shapes agree, a matrix counting as a 1x1 convolution: some files hold one for the other."""
    return shape == wanted or (*shape, *(1,) * (4 - len(shape))) == (*wanted, *(1,) * (4 - len(wanted)))


def _misfit(layer: Layer, tensors: Sequence[Tensor], shape: Sequence[int]) -> AdapterFault:
    shapes = " and ".join(str((*each.shape,)) for each in tensors)
    return AdapterFault(
        f"{layer.label}: factors of shape {shapes} do not fit its weight of shape {(*shape,)}; "
        "the adapter was made for another base"
    )


def _listed(layer: Layer) -> str:
    return ", ".join(sorted(layer.parts)) or "nothing"
