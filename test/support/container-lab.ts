/**
 * A host in miniature for the preparer: containerd's state directory, overlay snapshots, a sandbox with its share and
 * ledger, and a mount namespace that sees the share as virtiofsd's does. Wants a mount namespace of its own around it.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import type { Test } from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import type { Mounts } from '#shared/os/contract.ts'
import { createNativeOs } from '#shared/os/native.ts'
import type { ContainerPreparer, PreparedContainer, SandboxView } from '#host/container/contract.ts'
import { createPreparer } from '#host/container/prepare.ts'
import type { Containerd, SnapshotMount } from '#host/containerd/contract.ts'
import { Ledger } from '#host/sandbox/ledger.ts'
import { RECORD_VERSION, parseRecord, type SandboxRecord } from '#host/sandbox/record.ts'
import { openShare, VOLUMES_DIR } from '#host/sandbox/share.ts'
import { DirectoryStore } from '#host/sandbox/store.ts'
import { undo } from '#host/sandbox/undo.ts'
import { criSpec } from './container-spec.ts'

export const native = createNativeOs().mounts

export interface ContainerParts {
  readonly mounts?: readonly unknown[]
  /** Default: one layer with a file `name` that holds the container's id. */
  readonly layers?: number
  readonly spec?: string
  /** What `<bundle>/sandbox` says; default the sandbox it is for. */
  readonly bundleSandbox?: string
  /** What containerd's record says. */
  readonly recordSandbox?: string
  readonly snapshot?: readonly SnapshotMount[]
}

export interface Sandbox {
  readonly id: string
  readonly dir: string
  readonly ledger: Ledger
  readonly view: SandboxView
  add(id: string, parts?: ContainerParts): void
  prepare(id: string): Promise<PreparedContainer>
  release(id: string): Promise<void>
  /** A shell command, as virtiofsd could run it for a hostile guest: root, in the share it serves. */
  asGuest(script: string): Promise<{ readonly exitCode: number | undefined; readonly stdout: string; readonly stderr: string }>
  /** What the record on disk says now, as a sandboxer would read it after a crash. */
  reopened(): Promise<Sandbox>
  /** Mount points of the share, relative to it, oldest first; the share's own is "". */
  mounted(): string[]
}

export class Lab {
  /** A shared tmpfs, like a host under systemd. */
  readonly base = mkdtempSync(join(tmpdir(), 'kuasar-lab-'))
  readonly stateDir = join(this.base, 'containerd')
  readonly snapshotsDir = join(this.base, 'snapshots')
  readonly #records = new Map<string, { sandboxId: string; snapshot: readonly SnapshotMount[] }>()
  readonly #views: { readonly kill: () => void; readonly ended: Promise<unknown> }[] = []

  constructor() {
    native.mount({ source: 'tmpfs', target: this.base, type: 'tmpfs', options: ['shared'] })
    mkdirSync(this.snapshotsDir)
  }

  readonly containerd: Pick<Containerd, 'container' | 'snapshotMounts'> = {
    container: async (id) => {
      const record = this.#records.get(id)
      if (record === undefined) throw new RuntimeError('NOT_FOUND', `no container ${id}`)
      return { id, sandboxId: record.sandboxId, snapshotter: 'overlayfs', snapshotKey: id, runtime: '', labels: {} }
    },
    snapshotMounts: async (_snapshotter, key) => this.#records.get(key)?.snapshot ?? [],
  }

  async sandbox(id: string, options: { readonly mounts?: Mounts; readonly plain?: boolean } = {}): Promise<Sandbox> {
    const dir = join(this.base, 'sandboxes', id)
    const sharedDir = join(dir, 'shared')
    mkdirSync(options.plain === true ? sharedDir : dir, { recursive: true })
    const store = await DirectoryStore.open(join(this.base, 'ledger'))
    const ledger = new Ledger(recordOf(id), store, undo)
    await ledger.save()
    if (options.plain !== true) await openShare(sharedDir, ledger, native)
    const guest = options.plain === true ? undefined : await this.#guestNamespace()
    return this.#sandbox(id, ledger, store, options.mounts ?? native, options.plain === true, guest)
  }

  #sandbox(id: string, ledger: Ledger, store: DirectoryStore, mounts: Mounts, plain: boolean, guest: number | undefined): Sandbox {
    const dir = join(this.base, 'sandboxes', id)
    const sharedDir = join(dir, 'shared')
    const preparer: ContainerPreparer = createPreparer({ containerd: this.containerd, mounts, containerdStateDir: this.stateDir })
    const view: SandboxView = { id, podUid: POD_UID, namespace: 'k8s.io', sharedDir, guestSharedDir: plain ? sharedDir : '/run/kuasar/shared', guestRootsDir: plain ? sharedDir : '/run/kuasar/roots', hugepagesMiB: 0, ownership: ledger }
    return {
      id,
      dir,
      ledger,
      view,
      add: (container, parts) => this.#add(id, container, parts),
      prepare: async (container) => {
        const prepared = await preparer.prepare(view, container, AbortSignal.timeout(60_000))
        const { mounts }: { mounts: { source?: string }[] } = JSON.parse(prepared.spec.toString())
        volumes.set(container, mounts.flatMap(({ source = '' }) => (source.startsWith(`${view.guestSharedDir}/`) ? [source.slice(view.guestSharedDir.length + 1)] : [])))
        return prepared
      },
      release: (container) => preparer.release(view, container),
      asGuest: async (script) => {
        const args = [`--mount=/proc/${guest}/ns/mnt`, 'sh', '-c', `cd ${sharedDir} && ${script}`]
        const { exitCode, stdout, stderr } = await execa('nsenter', args, { reject: false })
        return { exitCode, stdout, stderr }
      },
      mounted: () =>
        mountPoints().filter((point) => point === sharedDir || point.startsWith(`${sharedDir}/`)).map((point) => point.slice(sharedDir.length + 1)),
      reopened: async () => {
        const text = (await store.list()).find((record) => record.id === id)?.text ?? ''
        return this.#sandbox(id, new Ledger(parseRecord(text, id), store, undo), store, mounts, plain, guest)
      },
    }
  }

  /** A slave of this one, which is what virtiofsd makes of its own. */
  async #guestNamespace(): Promise<number> {
    const child = spawn('unshare', ['--mount', '--propagation', 'slave', 'sh', '-c', 'echo ready; exec sleep 3600'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    this.#views.push({ kill: () => child.kill('SIGKILL'), ended: once(child, 'exit') })
    if (child.pid === undefined) throw new Error('unshare did not start')
    return child.pid
  }

  #add(sandboxId: string, id: string, parts: ContainerParts = {}): void {
    const bundle = join(this.stateDir, 'io.containerd.runtime.v2.task/k8s.io', id)
    mkdirSync(join(bundle, 'rootfs'), { recursive: true })
    writeFileSync(join(bundle, 'config.json'), parts.spec ?? criSpec({ mounts: parts.mounts ?? [] }))
    writeFileSync(join(bundle, 'sandbox'), parts.bundleSandbox ?? sandboxId)
    const snapshot = parts.snapshot ?? [this.overlay(id, parts.layers ?? 1)]
    this.#records.set(id, { sandboxId: parts.recordSandbox ?? sandboxId, snapshot })
  }

  bundle(id: string): string {
    return join(this.stateDir, 'io.containerd.runtime.v2.task/k8s.io', id)
  }

  /** Layer N, from 1, holds `layer-N`; the topmost also `name`. */
  overlay(id: string, layers: number): SnapshotMount {
    const at = (...names: string[]) => join(this.snapshotsDir, id, ...names)
    const lower = Array.from({ length: layers }, (_, index) => at(String(layers - index), 'fs'))
    lower.forEach((path, index) => {
      mkdirSync(path, { recursive: true })
      writeFileSync(join(path, `layer-${layers - index}`), '')
    })
    writeFileSync(join(lower[0] ?? '', 'name'), id)
    for (const name of ['fs', 'work']) mkdirSync(at('0', name), { recursive: true })
    const options = [`workdir=${at('0', 'work')}`, `upperdir=${at('0', 'fs')}`, `lowerdir=${lower.join(':')}`, 'index=off']
    return { type: 'overlay', source: 'overlay', target: '', options }
  }

  upper(id: string): string {
    return join(this.snapshotsDir, id, '0/fs')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { kill } of this.#views) kill()
    await Promise.all(this.#views.map(({ ended }) => ended))
    native.unmount(this.base, true)
    rmSync(this.base, { recursive: true })
  }
}

export const mountPoints = (): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8').trimEnd().split('\n').map((line) => line.split(' ')[4] ?? '')

const recordOf = (id: string): SandboxRecord =>
  parseRecord(
    JSON.stringify({
      version: RECORD_VERSION,
      id,
      sandboxer: 'kuasar-test',
      namespace: 'k8s.io',
      bootId: 'boot',
      createdAtMs: 0,
      pod: { name: 'p', namespace: 'default', uid: 'u', attempt: 0 },
      state: 'ready',
      plan: {
        vcpus: 1,
        memoryMiB: 256,
        cgroupPath: '/kuasar/x',
        annotations: {},
        guest: { hostname: 'p', dns: { servers: [], searches: [], options: [] }, sysctls: {}, hostsLines: [], shmBytes: 0, hugepagesMiB: 0, memoryLimitBytes: 0 },
      },
      owned: [],
      spans: [],
      cgroupProcs: [],
      containers: [],
      published: '0',
    }),
    id,
  )

export const POD_UID = '11111111-2222'

/** By container: where in the share its volumes lie, by the latest answer. */
const volumes = new Map<string, readonly string[]>()

/** Where volume N of a container's lies, in the share. */
export const volume = (id: string, index: number) => volumes.get(id)?.[index] ?? `${id} has no volume ${index}`

export const nothingLeft = (t: Pick<Test, 'same'>, sandbox: Sandbox, shared: readonly string[] = ['']) => {
  t.same(sandbox.mounted(), shared, 'no mount of a container is left')
  t.same(readdirSync(join(sandbox.dir, 'skeleton'), { recursive: true }).filter((name) => name !== VOLUMES_DIR), [])
  t.same(sandbox.ledger.list().filter((resource) => 'containerId' in resource), [])
}
