/** Regroups buffers so that no single write passes a limit. */

/**
 * The same bytes in the same order, in pieces of at most `max` bytes: long buffers are cut without copying, runs of
 * short ones are joined (a copy of at most `max` bytes costs less than another system call). Nothing is kept empty.
 */
export function splitWrites(chunks: readonly Uint8Array[], max: number): Uint8Array[] {
  const pieces: Uint8Array[] = []
  let run: Uint8Array[] = []
  let runBytes = 0
  const flush = () => {
    const only = run.length === 1 ? run[0] : undefined
    if (runBytes > 0) pieces.push(only ?? Buffer.concat(run, runBytes))
    run = []
    runBytes = 0
  }
  for (const chunk of chunks) {
    if (runBytes + chunk.length > max) flush()
    let from = 0
    for (; chunk.length - from > max; from += max) pieces.push(chunk.subarray(from, from + max))
    if (from === chunk.length) continue
    run.push(chunk.subarray(from))
    runBytes += chunk.length - from
  }
  flush()
  return pieces
}
