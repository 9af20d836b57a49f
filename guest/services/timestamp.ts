/** google.protobuf.Timestamp. */
const NANOS_PER_SECOND = 1_000_000_000n

/** `unixNanos` since the epoch, not before it. */
export function timestamp(unixNanos: bigint): { seconds: number; nanos: number } {
  return { seconds: Number(unixNanos / NANOS_PER_SECOND), nanos: Number(unixNanos % NANOS_PER_SECOND) }
}
