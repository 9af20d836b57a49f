/** A sandbox directory, a ledger in memory and a listening host: what a backend needs around it to launch a VM. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { type Server, type Socket, createServer } from 'node:net'
import { LINK_PORT } from '#shared/link-port.ts'
import { silentLog } from '#shared/log.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'
import type { QemuConfig } from '#host/backends/qemu/config.ts'
import { qemu } from '#host/backends/qemu/index.ts'
import type { AdoptionRecord, LaunchContext, LaunchPlan, RunningSandbox } from '#host/sandbox/backend.ts'
import type { BoundBackend } from '#host/sandbox/backends.ts'
import type { OwnedProcess, OwnedResource, Ownership } from '#host/sandbox/ownership.ts'
import { endProcess, findMarked } from '#host/sandbox/processes.ts'
import { imagePaths } from '../../image/paths.ts'

const os = createNativeOs()
const rpc = loadServices(loadProtos())
const built = imagePaths('/kuasar/build/image')

/** The image as a node sees it, by its keys in the configuration. */
export const images = { kernel: built.vmlinux, initramfs: built.initramfs, rootfs: built.rootfs }

const bound = (config: Partial<QemuConfig>): BoundBackend => qemu({ rpc, os }, { ...images, ...config }, 'backends.kuasar-qemu')

export class QemuLab implements AsyncDisposable {
  readonly id: string
  readonly plan: LaunchPlan
  readonly marks: string[] = []
  /** The first connection of the guest */
  readonly link: Promise<Socket>
  readonly #owned: OwnedResource[] = []
  readonly #server: Server
  readonly #sockets: Socket[] = []
  readonly #running: RunningSandbox[] = []

  constructor(id: string, plan: Partial<LaunchPlan> = {}) {
    this.id = id
    const dir = `/run/kuasar/sandboxes/${id}`
    const sharedDir = `${dir}/shared`
    const linkSocket = `${dir}/vsock_${LINK_PORT}`
    mkdirSync(sharedDir, { recursive: true, mode: 0o700 })
    os.mounts.mount({ source: sharedDir, target: sharedDir, type: '', options: ['bind'] })
    for (const propagation of ['private', 'shared']) os.mounts.mount({ source: '', target: sharedDir, type: '', options: [propagation] })
    this.plan = {
      sandboxId: id,
      dir,
      sharedDir,
      linkSocket,
      vcpus: 1,
      memoryMiB: 256,
      netnsPath: undefined,
      nics: [],
      cgroupProcs: [],
      annotations: {},
      logLevel: 'info',
      ...plan,
    }
    const { promise, resolve } = Promise.withResolvers<Socket>()
    this.link = promise
    this.#server = createServer((socket) => {
      this.#sockets.push(socket.on('error', () => {}))
      resolve(socket)
    }).listen(linkSocket)
  }

  /** A backend of its own each time, as a restarted sandboxer has. */
  async launch(config: Partial<QemuConfig> = {}, signal: AbortSignal = new AbortController().signal): Promise<RunningSandbox> {
    return this.#keep(await bound(config).launch(this.plan, this.#context(signal)))
  }

  /** `change`: what another sandboxer would have left. */
  async adopt(change: Partial<AdoptionRecord> = {}): Promise<RunningSandbox> {
    const adoption = this.#running[0]?.adoption
    const record: AdoptionRecord = JSON.parse(JSON.stringify({ sandboxId: this.id, plan: this.plan, adoption, owned: this.#owned, ...change }))
    return this.#keep(await bound({}).adopt(record, this.#context(new AbortController().signal)))
  }

  /** Its processes that run, by what /proc says. */
  async alive(): Promise<number> {
    return (await findMarked((marker) => marker.startsWith(`${this.id}/`))).length
  }

  get owned(): readonly OwnedResource[] {
    return this.#owned
  }

  process(name: string): OwnedProcess & { readonly pid: number } {
    const found = this.#owned.find((resource) => resource.kind === 'process' && resource.name === name)
    if (found?.kind !== 'process' || found.pid === undefined) throw new Error(`no ${name} was recorded`)
    return { ...found, pid: found.pid }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const running of this.#running) running.detach()
    for (const resource of this.#owned)
      if (resource.kind === 'process' && resource.pid !== undefined) await endProcess(resource.pid, resource.startTicks)
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    os.mounts.unmount(this.plan.sharedDir, true)
    rmSync(this.plan.dir, { recursive: true })
  }

  #keep(running: RunningSandbox): RunningSandbox {
    this.#running.push(running)
    return running
  }

  #context(signal: AbortSignal): LaunchContext {
    const owned = this.#owned
    const ownership: Ownership = {
      sandboxId: this.id,
      acquire: async (intent, create) => (await create()) ?? intent,
      async acquireAll(intents, create) {
        owned.push(...((await create()) ?? intents))
      },
      release: async () => {},
      list: () => owned,
    }
    return { ownership, log: silentLog, mark: (name) => this.marks.push(name), signal }
  }
}

/** A network namespace at a path, as CNI makes one. */
export function makeNetns(name: string): string {
  execFileSync('ip', ['netns', 'add', name])
  return `/run/netns/${name}`
}
