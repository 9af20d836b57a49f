/**
 * An agent without a VM: the real one, under the real PID 1 and with the real crun, in namespaces of its own. Its vsock
 * is a unix socket, its cgroup a directory of the machine's unified hierarchy.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { RuntimeError } from '#shared/errors.ts'
import type { MessageIn } from '#shared/rpc/any.ts'
import { FakeHost } from './fake-host.ts'
import { connectAgent, TaskClient } from './task-client.ts'

const repository = resolve(import.meta.dirname, '../..')
const init = join(repository, 'build/init/init')
const addon = join(repository, 'build/os/os.node')

/** What this machine lacks to run an agent; undefined when nothing. */
export function missingForAgent(): string | undefined {
  if (process.getuid?.() !== 0) return 'root'
  const needed = [['/usr/bin/crun', 'crun'], ['/bin/busybox', 'busybox-static'], [init, 'make init'], [addon, 'make os-addon']] as const
  return needed.find(([path]) => !existsSync(path))?.[1]
}

/** The commands of busybox that tests use. */
const applets = ['sh', 'cat', 'echo', 'sleep', 'head', 'dd', 'wc', 'true', 'false', 'kill', 'ps', 'id', 'hostname', 'ls', 'tty', 'stty', 'seq', 'yes', 'md5sum', 'touch', 'mount', 'readlink']

export interface ContainerSpec {
  readonly args: readonly string[]
  readonly terminal?: boolean
  readonly env?: readonly string[]
  readonly resources?: object
  readonly readonlyRoot?: boolean
  readonly pidNamespace?: 'PID_NAMESPACE_PRIVATE' | 'PID_NAMESPACE_POD' | 'PID_NAMESPACE_TARGET'
  readonly targetPid?: number
  readonly mounts?: readonly object[]
  readonly storages?: readonly { type: string; source: string; target: string; options: string[] }[]
}

export class AgentNode implements AsyncDisposable {
  readonly dir: string
  readonly host: FakeHost
  /** The hybrid vsock containerd would dial. */
  readonly socket: string
  readonly specs: Map<string, ContainerSpec>
  /** What the agent and PID 1 printed. */
  console = ''
  readonly exited: Promise<unknown>
  readonly #child: ChildProcess

  private constructor(dir: string, host: FakeHost, specs: Map<string, ContainerSpec>, child: ChildProcess) {
    this.specs = specs
    this.dir = dir
    this.host = host
    this.socket = join(dir, 'vsock')
    this.#child = child
    this.exited = once(child, 'exit')
    child.stdout?.on('data', (chunk: Buffer) => (this.console += chunk.toString()))
    child.stderr?.on('data', (chunk: Buffer) => (this.console += chunk.toString()))
  }

  /**
   * Resolves when the agent is Ready; an agent that ends before is an error with its last words. `config` changes
   * settings of the agent, `hello` what it is told of its pod, `command` is another agent than the checkout's.
   */
  static async start(config: object = {}, hello: FakeHost['hello'] = {}, command = [process.execPath, join(repository, 'guest/main.ts')]): Promise<AgentNode> {
    const dir = mkdtempSync(join(tmpdir(), 'kuasar-agent-'))
    makeRootfs(join(dir, 'rootfs'))
    const specs = new Map<string, ContainerSpec>()
    const host = new FakeHost(join(dir, 'vsock_1025'), (id) => prepared(dir, id, specs))
    host.hello = { ...host.hello, ...hello }
    await host.start()
    const { paths = {}, ...others }: { paths?: object } = config
    const settings = {
      endpoints: { listen: `unix:${join(dir, 'vsock')}`, host: `unix:${join(dir, 'vsock_1025')}`, forward: `unix:${join(dir, 'forward')}` },
      paths: { run: join(dir, 'run'), podCgroup: `/${cgroupName(dir)}`, pause: [init, 'pause'], meminfo: '', ...paths },
      ...others,
    }
    // The mount namespace gets a cgroup2 mount alone: crun looks at /sys/fs/cgroup to learn which version is in use.
    const script = [
      'umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup',
      'exec "$0" supervise "$@"',
    ].join('\n')
    const env = ['/usr/bin/env', `KUASAR_AGENT_CONFIG=${JSON.stringify(settings)}`, `KUASAR_OS_ADDON=${addon}`]
    const child = spawn(
      // Ends with this process, however that ends.
      'setpriv',
      ['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child', '--ipc', '--uts', '--mount-proc', 'sh', '-c', script, init, ...env, ...command],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    const node = new AgentNode(dir, host, specs, child)
    const ended = node.exited.then(() => 'ended')
    if ((await Promise.race([host.until(() => host.ready > 0), ended])) !== 'ended') return node
    await node[Symbol.asyncDispose]()
    throw new Error(`the agent ended:\n${node.console}`)
  }

  /** A client for a container that will run `spec`. */
  async container(id: string, spec: ContainerSpec): Promise<TaskClient> {
    this.specs.set(id, spec)
    return await TaskClient.connect(this.socket, id)
  }

  /** A file of /proc about a process, by its pid in the agent's PID namespace. */
  procPath(pid: number, file: string): string {
    return `/proc/${this.#initPid()}/root/proc/${pid}/${file}`
  }

  /** The agent's pid in its own namespace. */
  agentPid(): number {
    for (const pid of readdirSync(this.procPath(1, '..'))) {
      if (/^\d+$/.test(pid) && readFileSync(this.procPath(Number(pid), 'cmdline'), 'utf8').startsWith(process.execPath)) return Number(pid)
    }
    throw new Error('the agent is not running')
  }

  /** The machine's own pid of a process in the agent's PID namespace. */
  machinePid(pid: number): number {
    for (const candidate of readdirSync('/proc')) {
      if (!/^\d+$/.test(candidate)) continue
      const inner = /^NSpid:\s+\d+\s+(\d+)$/m.exec(readStatus(candidate))?.[1]
      if (Number(inner) === pid && isBelow(Number(candidate), this.#initPid())) return Number(candidate)
    }
    throw new Error(`process ${pid} is not running`)
  }

  /** PID 1 of the agent's namespace, as the machine knows it. */
  #initPid(): number {
    return Number(readFileSync(`/proc/${this.#child.pid}/task/${this.#child.pid}/children`, 'utf8').trim())
  }

  async agent() {
    return await connectAgent(this.socket)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // unshare --kill-child takes PID 1 along, and PID 1's end everything in its namespaces.
    this.#child.kill('SIGKILL')
    await this.exited
    await this.host.stop()
    rmSync(this.dir, { recursive: true, force: true })
    // Where a machine with cgroup v1 keeps its unified hierarchy, or one with v2 alone.
    const unified = existsSync('/sys/fs/cgroup/unified') ? '/sys/fs/cgroup/unified' : '/sys/fs/cgroup'
    const pod = join(unified, cgroupName(this.dir))
    if (existsSync(pod)) await removeCgroup(pod)
  }
}

/** What the sandboxer would answer. NOT_FOUND for a container no test announced. */
function prepared(dir: string, id: string, specs: ReadonlyMap<string, ContainerSpec>): MessageIn<'kuasar.host.v1.PrepareResponse'> {
  const spec = specs.get(id)
  if (spec === undefined) throw new RuntimeError('NOT_FOUND', `container ${id} is not of this sandbox`)
  const { storages = [], pidNamespace = 'PID_NAMESPACE_PRIVATE', targetPid = 0 } = spec
  return { spec: Buffer.from(JSON.stringify(ociSpec(join(dir, 'rootfs'), spec))), storages: [...storages], pidNamespace, targetPid }
}

function readStatus(pid: string | number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8')
  } catch {
    return ''
  }
}

/** True when `ancestor` is among the process's parents. */
function isBelow(pid: number, ancestor: number): boolean {
  for (let at = pid; at > 1; ) {
    at = Number(/^PPid:\s+(\d+)$/m.exec(readStatus(at))?.[1] ?? 0)
    if (at === ancestor) return true
  }
  return false
}

function cgroupName(dir: string): string {
  return dir.slice(dir.lastIndexOf('/') + 1)
}

/** A cgroup can be removed once the kernel has let its last process go. */
async function removeCgroup(path: string): Promise<void> {
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) await removeCgroup(join(path, entry.name))
  for (let attempt = 0; attempt < 100; attempt++) {
    try {
      rmdirSync(path)
      return
    } catch {
      await new Promise((wake) => setTimeout(wake, 20))
    }
  }
  throw new Error(`${path} is still in use`)
}

function makeRootfs(path: string): void {
  for (const directory of ['bin', 'etc', 'proc', 'sys', 'dev', 'tmp', 'work']) mkdirSync(join(path, directory), { recursive: true })
  copyFileSync('/bin/busybox', join(path, 'bin/busybox'))
  for (const applet of applets) symlinkSync('busybox', join(path, 'bin', applet))
}

/** Much like containerd's own spec of a CRI container. */
function ociSpec(rootfs: string, { args, terminal = false, env = [], resources, readonlyRoot = false, mounts = [] }: ContainerSpec): object {
  const capabilities = ['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FSETID', 'CAP_FOWNER', 'CAP_SETGID', 'CAP_SETUID', 'CAP_KILL']
  return {
    ociVersion: '1.2.1',
    root: { path: rootfs, readonly: readonlyRoot },
    hostname: 'ignored',
    process: {
      terminal, args, cwd: '/', env: ['PATH=/bin', ...env], user: { uid: 0, gid: 0 }, oomScoreAdj: 500,
      apparmorProfile: 'cri-containerd.apparmor.d', noNewPrivileges: true,
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
      { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] },
      ...mounts,
    ],
    linux: {
      cgroupsPath: '/k8s.io/ignored',
      namespaces: [
        { type: 'pid' }, { type: 'ipc', path: '/proc/0/ns/ipc' }, { type: 'uts', path: '/proc/0/ns/uts' }, { type: 'mount' },
        { type: 'network', path: '/proc/0/ns/net' },
      ],
      ...(resources === undefined ? {} : { resources }),
      maskedPaths: ['/proc/kcore'],
      readonlyPaths: ['/proc/bus'],
    },
  }
}
