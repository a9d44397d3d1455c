"""The profiles of ema-pytorch's `PostHocEMA`, whose averages are those of `KarrasEMA`.

Its average is updated in the calls 1, 1 + u, 1 + 2u, … for `update_every` u, with
β = (1 − 1/(n + 1))^(1+γ) in call n. For u = 1 this is our β at time t = n + 1 (in steps): the parameters of
call n count from time n to n + 1, the first ones from 0 to 2, which makes the average exact.

For other u, β still has the decay of a single step. Over the updates up to number k the product of
(i + 1/u)/(i + 2/u) falls like (k + 1/2 + 3/(2u))^(−1/u): a power function of exponent (γ + 1)/u − 1 at time
t = u k + u/2 + 3/2, with a relative error of order 1/k². Such an average is much longer than the length that
the library was asked for; it can take part as the average that it is.
"""

from edm2.ema.profile import gamma_to_sigma_rel, sigma_rel_to_gamma


def profile_time(step: int, update_every: int) -> float:
    """The time in steps at which the average of a file `{index}.{step}.pt` ends."""
    last = (step - 1) // update_every * update_every  # u k, of the last update
    return last + (update_every + 3) / 2


def profile_length(sigma_rel: float, update_every: int) -> float:
    """The EMA length that an average has which was asked for with length `sigma_rel`.

    Raises:
        ValueError: no length is possible.
    """
    if update_every == 1:
        return sigma_rel
    gamma = (sigma_rel_to_gamma(sigma_rel) + 1) / update_every - 1
    try:
        return gamma_to_sigma_rel(gamma)
    except ValueError:
        raise ValueError(
            f"EMA length σ_rel = {sigma_rel} with an update every {update_every} steps: ema-pytorch "
            f"decays as if it updated in each step, so the average is a power function of exponent "
            f"{gamma:.2f}, expected above 0. It can take no part; leave the files of its index out"
        ) from None
