/** A worker thread ends while a watch of its own is open; the process must end in order. */
import { Worker, isMainThread } from 'node:worker_threads'
import { createNativeOs } from '#shared/os/native.ts'

if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url))
  worker.on('error', (error) => {
    throw error
  })
  await new Promise((resolve) => worker.once('message', resolve))
  await worker.terminate()
} else {
  const { parentPort } = await import('node:worker_threads')
  createNativeOs().processes.watch(process.ppid, () => {})
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage('watching')
}
