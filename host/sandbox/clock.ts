/**
 * How far a guest's clock is off, as far as one question can tell. The request is under way for some part of the round
 * trip, and looks like that much of an offset:
 *
 *   guest's clock less host's  =  offset - (0 … round trip)
 */

/** A clock may be off by so much, in ns. */
const TOLERANCE_NANOS = 20_000_000n

export interface ClockSample {
  /** The guest's clock as the request came, less the host's as it left */
  readonly offsetNanos: bigint
  readonly roundTripNanos: bigint
}

/** What to set the guest's clock forward by, in ns; 0 when it may be right. Off by half the round trip at most. */
export function clockStep({ offsetNanos: most, roundTripNanos }: ClockSample): bigint {
  const least = most - roundTripNanos
  if (least <= TOLERANCE_NANOS && most >= -TOLERANCE_NANOS) return 0n
  const step = -(least + most) / 2n
  // A hostile guest's answer may be next to the end of what its own request can carry.
  return BigInt.asIntN(64, step) === step ? step : 0n
}
