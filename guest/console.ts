/**
 * The guest's console, which is this process's standard error.
 *
 * Node makes process.stderr at its first use, and a net.Socket that is destroyed is such a use. For a terminal, which the console
 * is, it then reads and compiles two modules: a fortieth of a pod's start under emulation. So the agent has one of its own.
 */
import { writeSync } from 'node:fs'
import process from 'node:process'
import { Writable } from 'node:stream'

const STDERR = 2

/** Says it at once. A console that takes nothing is no reason to fail. */
export function say(text: string | Uint8Array): void {
  try {
    writeSync(STDERR, Buffer.from(text))
  } catch {
    // There is nobody else to tell.
  }
}

/** What Node itself says (its warnings) goes the same way from now on. */
export function takeStderr(): void {
  const stderr = new Writable({
    decodeStrings: false,
    write(chunk: string | Uint8Array, _encoding, done) {
      say(chunk)
      done()
    },
  })
  Object.defineProperty(process, 'stderr', { value: stderr, configurable: true, enumerable: true })
}
