/**
 * Makes a container's files visible in its sandbox: look (containerd, spec, sources), plan, mount, answer.
 *
 * What a guest asks for is an id; that the container is this sandbox's, containerd says, twice: by the file it keeps
 * beside the spec and by its record. Nothing is touched before.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'
import { containerId as parseContainerId, type ContainerId } from '#shared/ids.ts'
import { Gate } from '#shared/gate.ts'
import { formatJson } from '#shared/json.ts'
import type { Mounts } from '#shared/os/contract.ts'
import { isErrno } from '#shared/os/error.ts'
import type { Containerd } from '../containerd/contract.ts'
import { mountPoints } from '../sandbox/mounts.ts'
import type { OwnedResource } from '../sandbox/ownership.ts'
import { plainShare, shareAt, VOLUMES_DIR, type Share } from '../sandbox/share.ts'
import { bundleDir, checkOwner, noSuchContainer, readSpec } from './bundle.ts'
import type { ContainerPreparer, PreparedContainer, SandboxView } from './contract.ts'
import { openSources, type Sources } from './facts.ts'
import { mountRootfs, mountVolume } from './mounter.ts'
import { SPEC_BYTES_MAX } from './oci.ts'
import { planContainer, sourcesOf, type ContainerPlan } from './plan.ts'
import { guestSpec } from './spec.ts'
import { createTurns } from './turns.ts'

/** Mount sources of one sandbox that are looked at together: of the 64 threads that docs/containerd.md gives the sandboxer. */
const LOOKS_MAX = 4

/** Containers of one sandbox that hold mounts; each costs memory of the host until it is released. */
const CONTAINERS_MAX = 1024

export interface PreparerOptions {
  readonly containerd: Pick<Containerd, 'container' | 'snapshotMounts'>
  readonly mounts: Mounts
  /** containerd's `state` directory, "/run/containerd" by default */
  readonly containerdStateDir: string
}

export function createPreparer({ containerd, mounts, containerdStateDir }: PreparerOptions): ContainerPreparer {
  const turns = createTurns()
  const gates = new WeakMap<SandboxView, Gate>()
  const gateOf = (sandbox: SandboxView): Gate => {
    const gate = gates.get(sandbox) ?? new Gate(LOOKS_MAX)
    gates.set(sandbox, gate)
    return gate
  }

  async function prepare(sandbox: SandboxView, id: ContainerId, signal: AbortSignal): Promise<PreparedContainer> {
    const bundle = bundleDir(containerdStateDir, sandbox.namespace, id)
    await checkOwner(bundle, sandbox.id, id, signal)
    const [spec, record] = await Promise.all([readSpec(bundle, sandbox.id, id, signal), containerd.container(id, signal)])
    if (record.sandboxId !== sandbox.id) throw noSuchContainer(id, sandbox.id)
    const snapshot = await containerd.snapshotMounts(record.snapshotter, record.snapshotKey, signal)
    await using sources = await openSources(sourcesOf(spec), gateOf(sandbox), signal)
    // From here to the record of the intents nothing is awaited: what is in common with another container stays so.
    const plan = planContainer({
      spec,
      snapshot,
      snapshotter: record.snapshotter,
      facts: sources.facts,
      id,
      podUid: sandbox.podUid,
      hugepagesMiB: sandbox.hugepagesMiB,
      hostDir: join(sandbox.sharedDir, id),
      guestDir: join(sandbox.guestSharedDir, id),
      guestRootDir: join(sandbox.guestRootsDir, id),
      hostVolumesDir: join(sandbox.sharedDir, VOLUMES_DIR),
      guestVolumesDir: join(sandbox.guestSharedDir, VOLUMES_DIR),
      commonName: commonNames(sandbox),
    })
    const guest = guestSpec(spec, plan, sandbox.hugepagesMiB)
    const json = Buffer.from(formatJson(guest.spec))
    if (json.length > SPEC_BYTES_MAX)
      throw new RuntimeError('RESOURCE_EXHAUSTED', `the spec of container ${id} has ${json.length} bytes; the limit is ${SPEC_BYTES_MAX}`)
    signal.throwIfAborted()
    await make(sandbox, id, plan, sources)
    return { spec: json, storages: plan.storages, pidNamespace: guest.pidNamespace }
  }

  /** What is mounted already stays: Prepare is repeated when its answer was lost, and the container may run by now. */
  async function make(sandbox: SandboxView, id: ContainerId, plan: ContainerPlan, sources: Sources): Promise<void> {
    const share = sandbox.guestSharedDir === sandbox.sharedDir ? plainShare(sandbox.sharedDir) : shareAt(sandbox.sharedDir)
    const owned = sandbox.ownership.list().filter((resource) => belongsTo(resource, id))
    if (owned.length === 0) refuseTooMany(sandbox)
    const known = new Set(owned.map(nameOf))
    const intents = intentsOf(share, id, plan).filter((resource) => !known.has(nameOf(resource)))
    await sandbox.ownership.acquireAll(intents, async () => {
      await makeSkeleton(share, plan)
      // Looked at and mounted in one go: another container may have made what the two have in common, or be about to.
      const mounted = new Set(mountPoints(readFileSync('/proc/self/mountinfo', 'utf8')))
      if (!mounted.has(plan.rootfs.target)) mountRootfs(mounts, plan.rootfs, share.stagingDir)
      for (const volume of plan.volumes)
        if (!mounted.has(volume.target)) mountVolume(mounts, volume, sources.pinned(volume.source), share.stagingDir)
    })
  }

  return {
    async prepare(sandbox, text, signal) {
      const id = parseContainerId(text)
      return turns.take(`${sandbox.id}/${id}`, () => prepare(sandbox, id, signal))
    },
    async release(sandbox, text) {
      const id = parseContainerId(text)
      await turns.take(`${sandbox.id}/${id}`, () => sandbox.ownership.release((resource) => belongsTo(resource, id)))
    },
  }
}

/** The directory first: what is owned is undone newest first. */
const intentsOf = ({ sharedDir, skeletonDir }: Share, containerId: ContainerId, { rootfs, volumes }: ContainerPlan): readonly OwnedResource[] => [
  { kind: 'directory', path: join(skeletonDir, containerId), containerId },
  { kind: 'mount', target: rootfs.target, containerId },
  ...volumes.map(({ target, common }) => ({ kind: 'mount', target, containerId, ...(common ? { point: join(skeletonDir, relative(sharedDir, target)) } : {}) }) as const),
]

/** By key: the volume of the pod's that is there, or one that never was, for the last user of an older one may be leaving. */
function commonNames({ ownership, sharedDir }: SandboxView): (key: string) => string {
  const directory = join(sharedDir, VOLUMES_DIR)
  const names = new Map<string, string>()
  for (const resource of ownership.list()) {
    if (resource.kind !== 'mount' || dirname(resource.target) !== directory) continue
    const name = basename(resource.target)
    names.set(name.slice(0, name.lastIndexOf('-')), name)
  }
  return (key) => {
    const name = names.get(key) ?? `${key}-${randomBytes(4).toString('hex')}`
    names.set(key, name)
    return name
  }
}

/** What the mounts cover, made where the guest cannot reach: an empty directory or file each. */
async function makeSkeleton({ sharedDir, skeletonDir }: Share, { rootfs, volumes }: ContainerPlan): Promise<void> {
  for (const { node, target } of [{ node: 'directory', target: rootfs.target }, ...volumes]) {
    const path = join(skeletonDir, relative(sharedDir, target))
    await mkdir(node === 'directory' ? path : dirname(path), { recursive: true, mode: 0o755 })
    if (node === 'file') await touch(path)
  }
}

async function touch(path: string): Promise<void> {
  try {
    await writeFile(path, '', { flag: 'wx' })
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error
  }
}

const belongsTo = (resource: OwnedResource, id: ContainerId): boolean => 'containerId' in resource && resource.containerId === id

const nameOf = (resource: OwnedResource): string => `${resource.kind} ${resource.kind === 'mount' ? resource.target : 'path' in resource ? resource.path : ''}`

function refuseTooMany({ id, ownership }: SandboxView): void {
  const containers = ownership.list().filter((resource) => resource.kind === 'directory' && resource.containerId !== undefined)
  if (containers.length >= CONTAINERS_MAX)
    throw new RuntimeError('RESOURCE_EXHAUSTED', `sandbox ${id} holds the files of ${containers.length} containers; the limit is ${CONTAINERS_MAX}`)
}
