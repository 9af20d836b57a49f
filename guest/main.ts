/**
 * The agent's entry. In the image it is the main function of a V8 start-up snapshot, which already holds the modules
 * and the message definitions: nothing that belongs to a running system (descriptors, the environment, the addon) may
 * be touched before `main`.
 */
import process from 'node:process'
import { explain } from '#shared/errors.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { runAgent } from './agent.ts'
import { configFrom } from './config.ts'
import { say, takeStderr } from './console.ts'
import { loadGuestRpc } from './rpc.ts'

const rpc = loadGuestRpc()

/** Tells PID 1's console why, and exits: PID 1 powers the VM off. */
function die(error: unknown): never {
  say(`agent: ${explain(error)}\n`)
  if (error instanceof Error && error.stack !== undefined) say(`${error.stack}\n`)
  process.exit(1)
}

/** Runs the agent until the VM ends, or prints why it cannot and exits with status 1. */
export function main(): void {
  takeStderr()
  process.on('uncaughtException', die)
  process.on('unhandledRejection', die)
  try {
    runAgent(configFrom(process.env), createNativeOs(), rpc, process.env).catch(die)
  } catch (error) {
    die(error)
  }
}

// Straight from the checkout, outside a VM. The image has an entry of its own (image/agent-entry.ts).
if (import.meta.main) main()
