"""Random numbers for a whole batch at once, each sample from a stream of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raylign.errors import InputError

Generators = torch.Generator | Sequence[torch.Generator]

_STEP = 0x9E3779B97F4A7C15 - 2**64  # the golden ratio's bits; torch's whole numbers are signed
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_LANE = 0xD1B54A32D192ED03 - 2**64  # odd, and unrelated to the step between a lane's numbers


@dataclass
class Draws:
    """A stream of random numbers for each of B samples, made on the samples' device in one operation.

    Number n of a stream is SplitMix64 (Steele, Lea and Flood 2014) of the sample's key and n: no state is stepped through. What a
    sample gets depends on its own key, the lane and how many numbers its transform took before, never on the other samples, the
    size of the batch or the device. The draws have shape [B, *shape].

    Parameters
    ----------
    keys: [B] int64, one a sample.
    taken: how many numbers of each stream are used up.
    """

    keys: Int[Tensor, " B"]
    taken: int = 0

    @staticmethod
    def of(generators: Generators, count: int, device: str | torch.device = "cpu") -> Draws:
        """Streams keyed by one number from each sample's generator, or by ``count`` numbers of one generator.

        Raises
        ------
        InputError: neither one generator nor ``count`` of them.
        """
        top = 2**63 - 1
        if isinstance(generators, torch.Generator):
            keys = torch.randint(top, (count,), generator=generators, device=generators.device)
        elif len(generators) == count:
            drawn = [torch.randint(top, (1,), generator=g, device=g.device) for g in generators]
            keys = torch.cat([key.to(device) for key in drawn]) if drawn else torch.empty(0, dtype=torch.int64)
        else:
            raise InputError(
                f"{len(generators)} generators for {count} samples", field="generators", remedy="give one, or one a sample"
            )
        return Draws(keys.to(device))

    def lane(self, number: int) -> Draws:
        """Streams unrelated to these, for one of several users of randomness; what one lane takes moves no other."""
        return Draws(_mixed(self.keys ^ _signed((number + 1) * _LANE)))

    def of_samples(self, index: Int[Tensor, " n"]) -> Draws:
        """The streams of some of the samples, at the place where all of them are."""
        return replace(self, keys=self.keys[index])

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        place = torch.arange(self.taken + 1, self.taken + 1 + count, device=self.keys.device)
        self.taken += count
        return _mixed(self.keys[:, None] + place * _STEP).reshape(len(self.keys), *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Float[Tensor, " *drawn"]:
        """Uniform in [low, high), float64: for parameters."""
        return low + (high - low) * (_shifted(self._bits(shape), 11).double() * 2.0**-53)

    def log_uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Float[Tensor, " *drawn"]:
        """Between two positive numbers, its logarithm uniform."""
        return torch.exp(self.uniform(math.log(low), math.log(high), shape))

    def whole(self, low: int, high: int, shape: tuple[int, ...] = ()) -> Int[Tensor, " *drawn"]:
        """Whole numbers of low to high, both included."""
        return low + (self.uniform(shape=shape) * (high - low + 1)).floor().long()

    def normal(self, shape: tuple[int, ...] = ()) -> Float[Tensor, " *drawn"]:
        """Standard normal, float32 (Box and Muller 1958): for noise. Its tails end at 5.9."""
        bits = self._bits(shape)
        radius = torch.sqrt(-2 * torch.log((_shifted(bits, 40).float() + 0.5) * 2.0**-24))
        return radius * torch.cos((bits & 0xFFFFFF).float() * (2.0**-23 * math.pi))

    def field(self, shape: tuple[int, ...]) -> Float[Tensor, " *drawn"]:
        """Uniform in [0, 1), float32: for pixels."""
        return _shifted(self._bits(shape), 40).float() * 2.0**-24


def _signed(number: int) -> int:
    """The lowest 64 bits of a whole number, read as a signed one."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift to the right that fills with zeros, which torch has for no signed type."""
    return (bits >> count) & (2 ** (64 - count) - 1)


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)
