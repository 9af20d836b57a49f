/**
 * When a helper is ready: its unix socket listens. The socket must not be tried by connecting, for virtiofsd serves its
 * first connection only; the file alone says too little, for it appears at bind(2), before listen(2).
 */
import { existsSync, watch } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Between bind and listen there is nothing to wait on; in ms. */
const BOUND_RETRY_MS = 1

/**
 * Resolves once a unix socket listens. `netnsOf` is the process whose /proc/PID/net/unix lists it ("self" for the
 * sandboxer's own), for a socket belongs to the network namespace it was made in. Rejects with the signal's reason.
 */
export async function untilListening(socket: string, netnsOf: number | 'self', signal: AbortSignal): Promise<void> {
  await created(socket, signal)
  while (!isListening(await readFile(`/proc/${netnsOf}/net/unix`, 'latin1'), socket)) await sleep(BOUND_RETRY_MS, undefined, { signal })
}

/** Resolves when the file exists. Rejects with the signal's reason. */
async function created(path: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const onAbort = () => reject(signal.reason)
  const watcher = watch(dirname(path), (_, name) => {
    if (name === basename(path)) resolve()
  })
  watcher.on('error', reject)
  signal.addEventListener('abort', onAbort)
  // It may have come before the watch.
  if (existsSync(path)) resolve()
  try {
    await promise
  } finally {
    signal.removeEventListener('abort', onAbort)
    watcher.close()
  }
}

/** __SO_ACCEPTCON among the flags. Source: unix_seq_show() in net/unix/af_unix.c. */
export function isListening(procNetUnix: string, path: string): boolean {
  return procNetUnix.split('\n').some((line) => line.endsWith(` ${path}`) && line.split(' ')[3] === '00010000')
}
