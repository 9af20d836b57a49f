/** containerd's directory of one task: whose it is, and the spec in it. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'
import type { ContainerId } from '#shared/ids.ts'
import { isErrno } from '#shared/os/error.ts'
import { SPEC_BYTES_MAX, parseSpec, type OciSpec } from './oci.ts'

/** A sandbox id and a newline, with room to spare. */
const SANDBOX_FILE_BYTES_MAX = 256

/** Source: containerd's v2 task manager, which keeps the state of its tasks here since 1.2. */
export const bundleDir = (stateDir: string, namespace: string, id: ContainerId): string =>
  join(stateDir, 'io.containerd.runtime.v2.task', namespace, id)

/**
 * Whether containerd itself says that the container is of this sandbox. Errors: NOT_FOUND, in the same words for a
 * container of another sandbox as for none.
 */
export async function checkOwner(dir: string, sandboxId: string, id: ContainerId, signal: AbortSignal): Promise<void> {
  const owner = await readSmall(join(dir, 'sandbox'), SANDBOX_FILE_BYTES_MAX, signal)
  if (owner?.trimEnd() !== sandboxId) throw noSuchContainer(id, sandboxId)
}

/** Errors: NOT_FOUND, RESOURCE_EXHAUSTED above SPEC_BYTES_MAX, INVALID_ARGUMENT for what is no spec. */
export async function readSpec(dir: string, sandboxId: string, id: ContainerId, signal: AbortSignal): Promise<OciSpec> {
  const json = await readSmall(join(dir, 'config.json'), SPEC_BYTES_MAX, signal)
  if (json === undefined) throw noSuchContainer(id, sandboxId)
  return parseSpec(json, `the spec of container ${id}`)
}

export const noSuchContainer = (id: string, sandboxId: string): RuntimeError =>
  new RuntimeError('NOT_FOUND', `sandbox ${sandboxId} has no container ${id} that containerd knows of`)

/** Undefined when there is no such file. */
async function readSmall(path: string, bytesMax: number, signal: AbortSignal): Promise<string | undefined> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const { size } = await file.stat()
    if (size > bytesMax)
      throw new RuntimeError('RESOURCE_EXHAUSTED', `${path} has ${size} bytes; the limit is ${bytesMax}: a container's spec must be smaller`)
    return await file.readFile({ encoding: 'utf8', signal })
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined
    throw error
  }
}
