/** A real sandboxer process with the fake backend in a directory of its own, and typed clients for its services. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { removeCgroup } from '#host/sandbox/cgroup.ts'
import { parseRecord } from '#host/sandbox/record.ts'
import { mountsBelow, unmountAll } from '#host/sandbox/mounts.ts'
import { connectGrpc, type GrpcConnection } from '#shared/rpc/grpc-client.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices, type ServiceTypesOf } from '#shared/rpc/services.ts'
import type { MessageIn } from '#shared/rpc/any.ts'
import type { Calls } from '#shared/ttrpc/method.ts'

export const rpc = loadServices(loadProtos())

const MAIN = fileURLToPath(new URL('../../host/main.ts', import.meta.url))
const START_LIMIT_MS = 60_000
const POLL_MS = 10

export interface DaemonOptions {
  readonly kind?: 'fake' | 'fake-shared'
  /** More keys of `[sandboxer]`, as TOML lines */
  readonly sandboxer?: string
  /** Keys of `[backends.kuasar-fake]` besides its kind, as TOML lines */
  readonly backend?: string
  /** More of the configuration, as TOML */
  readonly more?: string
}

/** A state directory that outlives the sandboxers started in it. */
export class Daemon implements AsyncDisposable {
  readonly dir: string
  #child: ChildProcess | undefined
  #connection: GrpcConnection | undefined
  #admin: GrpcConnection | undefined
  #log = ''

  private constructor(dir: string) {
    this.dir = dir
  }

  static async prepare(options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = new Daemon(await mkdtemp('/tmp/k-'))
    await daemon.configure(options)
    return daemon
  }

  /** For the sandboxers to come. */
  async configure(options: DaemonOptions): Promise<void> {
    const { dir } = this
    await writeFile(
      join(dir, 'config.toml'),
      `[sandboxer]
listen = "${dir}/sandboxer.sock"
admin = "${dir}/admin.sock"
state_dir = "${dir}"
log_level = "debug"
cgroup_parent = "/kuasar-test"
${options.sandboxer ?? ''}
[containerd]
address = "${dir}/containerd.sock"
[backends.kuasar-fake]
kind = "${options.kind ?? 'fake'}"
${options.backend ?? ''}
${options.more ?? ''}
`,
    )
  }

  static async start(options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = await Daemon.prepare(options)
    await daemon.start()
    return daemon
  }

  /** Resolves when it serves. Rejects with what it printed when it ends instead. */
  async start({ main = MAIN, env = {} }: { readonly main?: string; readonly env?: Readonly<Record<string, string>> } = {}): Promise<void> {
    const child = spawn(process.execPath, [main, '--config', join(this.dir, 'config.toml')], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...env },
    })
    this.#child = child
    child.stderr.on('data', (chunk: Buffer) => (this.#log += chunk.toString()))
    // The one that it listens on last.
    await rm(this.socket, { force: true })
    for (let waitedMs = 0; ; waitedMs += POLL_MS) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`the sandboxer ended: ${child.exitCode ?? child.signalCode}\n${this.#log}`)
      if (waitedMs > START_LIMIT_MS) throw new Error(`the sandboxer does not serve\n${this.#log}`)
      if (await listens(this.socket)) break
      await sleep(POLL_MS)
    }
    this.#connection = connectGrpc(this.socket, { namespace: 'k8s.io' })
    this.#admin = connectGrpc(this.adminSocket)
  }

  get socket(): string {
    return join(this.dir, 'sandboxer.sock')
  }

  get adminSocket(): string {
    return join(this.dir, 'admin.sock')
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  get log(): string {
    return this.#log
  }

  get controller(): Calls<ServiceTypesOf<'controller'>> {
    if (this.#connection === undefined) throw new Error('the sandboxer was not started')
    return this.#connection.calls(rpc.controller)
  }

  get admin(): Calls<ServiceTypesOf<'admin'>> {
    if (this.#admin === undefined) throw new Error('the sandboxer was not started')
    return this.#admin.calls(rpc.admin)
  }

  /** Create and Start. */
  async run(id: string, config: MessageIn<'runtime.v1.PodSandboxConfig'> = {}) {
    await this.create(id, config)
    return this.controller.Start({ sandboxId: id, sandboxer: 'kuasar-fake' })
  }

  create(id: string, config: MessageIn<'runtime.v1.PodSandboxConfig'> = {}, sandboxer = 'kuasar-fake') {
    const options = rpc.any.pack('runtime.v1.PodSandboxConfig', config)
    return this.controller.Create({ sandboxId: id, options, sandboxer, netnsPath: '' })
  }

  async remove(id: string): Promise<void> {
    await this.controller.Stop({ sandboxId: id })
    await this.controller.Shutdown({ sandboxId: id })
  }

  /** The process is gone when it resolves. */
  async end(signal: NodeJS.Signals): Promise<void> {
    this.#connection?.close()
    this.#admin?.close()
    await this.signal(signal)
  }

  /** Leaves the connections as they are. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }

  /** Resolves when the process has ended by itself. */
  async ended(): Promise<void> {
    const child = this.#child
    if (child !== undefined && child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    this.#connection?.close()
    this.#admin?.close()
  }

  /** What sandboxes have left: ledgers, directories, mounts, cgroups, processes. Empty when all is well. */
  async leftovers(): Promise<string[]> {
    const ledgers = (await list(join(this.dir, 'ledger'))).filter((name) => name !== 'unreadable')
    const dirs = await list(join(this.dir, 'sandboxes'))
    const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter((line) => line.includes(` ${this.dir}/`))
    const cgroups: string[] = []
    for (const root of ['/sys/fs/cgroup', ...(await list('/sys/fs/cgroup')).map((name) => `/sys/fs/cgroup/${name}`)])
      for (const name of await list(join(root, 'kuasar-test'))) if (name.startsWith('kuasar-') && (await this.#isOurs(name))) cgroups.push(join(root, name))
    return [...ledgers, ...dirs, ...mounts, ...cgroups, ...(await this.guests()).map((pid) => `process ${pid}`)]
  }

  /** Of the sandboxes this directory ever held; other tests may run beside. */
  readonly ids = new Set<string>()

  async #isOurs(cgroup: string): Promise<boolean> {
    return this.ids.has(cgroup.slice('kuasar-'.length))
  }

  /** The pid of the only guest. */
  async guest(): Promise<number> {
    const [pid, ...others] = await this.guests()
    if (pid === undefined || others.length > 0) throw new Error(`expected one guest, not ${pid === undefined ? 0 : others.length + 1}`)
    return pid
  }

  /** Pids of the guests in this directory. */
  async guests(): Promise<number[]> {
    const found: number[] = []
    for (const name of await list('/proc')) {
      if (!/^\d+$/.test(name)) continue
      const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
      if (command.includes('guest-main.ts') && command.includes(`${this.dir}/`)) found.push(Number(name))
    }
    return found
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL')
    for (const pid of await this.guests()) process.kill(pid, 'SIGKILL')
    await unmountAll(await mountsBelow(this.dir))
    for (const name of (await list(join(this.dir, 'ledger'))).filter((file) => file.endsWith('.json'))) {
      const { owned } = parseRecord(await readFile(join(this.dir, 'ledger', name), 'utf8'), name)
      for (const resource of owned) if (resource.kind === 'cgroup') await removeCgroup(resource.path)
    }
    await rm(this.dir, { recursive: true, force: true })
  }
}

/** The file is there from bind(2) on, which says nothing yet. */
function listens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}

const list = (path: string): Promise<string[]> => readdir(path).catch(() => [])
