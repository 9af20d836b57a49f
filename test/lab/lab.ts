/**
 * The lab: a whole machine of its own, emulated with AMD's SVM, so that inside there is what the outer machine may lack:
 * KVM that works, a cgroup v2 host under systemd, Debian's own kernel with all its modules. QEMU and its helpers run in a
 * test node and end with it. The disk starts the same every time; nothing written to it lasts.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { dialHybrid } from '#host/link/dial.ts'
import { consoleTail } from '#host/sandbox/console.ts'
import { connectCri, type Cri, type PodCgroups } from '#test/cri/client.ts'
import { startNode, type ExecResult, type TestNode } from '#test/node/node.ts'
import { checkout, inside } from '#test/node/paths.ts'
import { ensureMachine, type Machine } from './machine.ts'
import { LAB_PORT, READY_PORT, readLine, relay, type Request, type RunAnswer } from './wire.ts'

export interface Lab extends AsyncDisposable {
  /** The lab's own directory, as this process sees it; KUASAR_LAB=DIR lets others join it. */
  readonly dir: string
  /** Runs a program in the lab to its end. A failing exit status is a result, not an error. */
  exec(argv: readonly string[], input?: string): Promise<ExecResult>
  /** A shell script; a failing exit status is an error that carries the output. Answers standard output without its last newline. */
  sh(script: string): Promise<string>
  readFile(path: string): Promise<string>
  /** Makes its directory too. */
  writeFile(path: string, content: string): Promise<void>
  /** A unix socket on the outer machine, and each connection to it leads to `path` in the lab. */
  forward(path: string): Promise<string>
  /** containerd's CRI in the lab. Logs are read through exec. */
  cri(cgroups: PodCgroups): Promise<Cri>
}

/** A kernel and systemd under emulation, with other tests beside it. */
const READY_MS_MAX = 600_000
const DIAL_MS_MAX = 60_000
/** Of the machine's one network card, for tests to give away. */
export const SPARE_MAC = '02:6b:75:61:73:70'
/** Of the console, in an error. */
const CONSOLE_LINES = 40

const MEMORY_MIB = 3072
const VCPUS = 2
/** Without xsave a nested guest's kernel starts too; QEMU's emulation of it inside SVM does not hold. */
const CPU = 'max,-xsave,-avx,-avx2,-pku,-mpx,-la57,-smap,+svm'

const KERNEL_WORDS = [
  'console=ttyS0', 'quiet', 'panic=-1', 'no_timer_check', 'TERM=dumb', 'systemd.show_status=no', 'systemd.unit=multi-user.target',
  // A loaded host makes the watchdog give the TSC up, and what is left (HPET) costs an exit for every look at the time.
  'tsc=reliable',
  // Each of these is seconds of a start under emulation.
  'cryptomgr.notests', 'mitigations=off', 'lsm=landlock', 'audit=0',
] as const

/** Inside the node. */
const at = (name: string): string => `${inside.scratch}/lab/${name}`

/** Starts a lab and waits until it is up. Built first when need be, which takes minutes the first time. */
export async function startLab(say: (line: string) => void = () => {}): Promise<Lab> {
  const running = process.env['KUASAR_LAB']
  if (running !== undefined) return openLab(running, new AsyncDisposableStack())
  const machine = await ensureMachine(say)
  await using stack = new AsyncDisposableStack()
  const node = stack.use(await startNode({ images: false }))
  await node.run('mkdir', [at('')])
  await startHelpers(node)
  const ready = await untilDialled(node.path(`${at('vsock')}_${READY_PORT}`))
  stack.defer(() => void ready.server.close())
  const qemu = await node.start({ name: 'qemu', command: 'qemu-system-x86_64', args: qemuArguments(machine) })
  const dir = node.path(at(''))
  const console = () => consoleTail(join(dir, 'console.log'), CONSOLE_LINES).then((lines) => lines.join('\n'))
  const ended = qemu.exited.then(async () => {
    throw new Error(`the lab's machine ended before it was up:\n${await console()}${await qemu.log()}`)
  })
  const late = sleep(READY_MS_MAX, undefined, { ref: false }).then(async () => {
    throw new Error(`the lab is not up after ${READY_MS_MAX} ms:\n${await console()}`)
  })
  for (const promise of [ended, late]) promise.catch(() => {})
  await Promise.race([ready.dialled, ended, late])
  return openLab(dir, stack.move())
}

/** The two daemons that give the machine the checkout and vsock. */
async function startHelpers(node: TestNode): Promise<void> {
  const start = (name: string, socket: string, command: string, args: readonly string[]) =>
    node.start({ name, command, args, ready: async () => existsSync(node.path(socket)) })
  // Nobody changes the checkout under a running lab.
  const share = [`--shared-dir=${inside.checkout}`, '--readonly', '--cache=always', '--log-level=error']
  await start('virtiofsd', at('fs.sock'), '/usr/libexec/virtiofsd', [...share, `--socket-path=${at('fs.sock')}`])
  const vsock = ['--guest-cid=3', `--socket=${at('vhost.sock')}`, `--uds-path=${at('vsock')}`]
  await start('vhost-device-vsock', at('vhost.sock'), 'vhost-device-vsock', vsock)
}

/** The path inside the node of a file of the checkout. */
const within = (path: string): string => path.replace(checkout, inside.checkout)

function qemuArguments({ kernel, initramfs, disk }: Machine): string[] {
  const options: readonly (readonly [name: string, value?: string])[] = [
    ['-nodefaults'],
    ['-no-user-config'],
    ['-display', 'none'],
    ['-machine', 'q35,smm=off,vmport=off,sata=off,usb=off,smbus=off,memory-backend=memory'],
    ['-accel', 'tcg,thread=multi'],
    ['-cpu', CPU],
    ['-smp', `${VCPUS}`],
    ['-m', `${MEMORY_MIB}M`],
    ['-object', `memory-backend-memfd,id=memory,size=${MEMORY_MIB}M,share=on`],
    ['-kernel', within(kernel)],
    ['-initrd', within(initramfs)],
    ['-append', KERNEL_WORDS.join(' ')],
    // What is written goes to a temporary file of QEMU's own.
    ['-drive', `file=${within(disk)},format=raw,if=virtio,snapshot=on`],
    ['-chardev', `socket,id=fs,path=${at('fs.sock')}`],
    ['-device', 'vhost-user-fs-pci,chardev=fs,tag=checkout'],
    ['-chardev', `socket,id=vsock,path=${at('vhost.sock')}`],
    ['-device', 'vhost-user-vsock-pci,chardev=vsock'],
    ['-device', 'virtio-rng-pci'],
    // A card that is plugged into nothing.
    ['-netdev', 'hubport,id=spare,hubid=0'],
    ['-device', `virtio-net-pci,netdev=spare,mac=${SPARE_MAC},romfile=`],
    ['-serial', `file:${at('console.log')}`],
  ]
  return options.flatMap(([name, value]) => (value === undefined ? [name] : [name, value]))
}

/** Listens on a unix socket; `dialled` resolves with the first connection. */
async function untilDialled(path: string): Promise<{ readonly server: Server; readonly dialled: Promise<void> }> {
  const { promise: dialled, resolve } = Promise.withResolvers<void>()
  // Kept open: its end would be an error in the machine.
  const server = await listen(path, () => resolve())
  return { server, dialled }
}

async function listen(path: string, onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer(onConnection)
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve))
  server.unref()
  return server
}

const text = (base64: string): string => Buffer.from(base64, 'base64').toString()

/** `owned` ends with it. */
function openLab(dir: string, owned: AsyncDisposableStack): Lab {
  const vsock = join(dir, 'vsock')
  const request = async (what: Request): Promise<Socket> => {
    const socket = await dialHybrid(vsock, LAB_PORT, AbortSignal.timeout(DIAL_MS_MAX))
    socket.write(`${JSON.stringify(what)}\n`)
    return socket
  }
  const forwards = new Map<string, Promise<string>>()
  const forward = async (path: string): Promise<string> => {
    const outer = join(dir, `forward-${process.pid}-${forwards.size}`)
    const server = await listen(outer, (near) => {
      near.pause()
      request({ connect: { path } }).then(
        (far) => relay(near, far),
        () => near.destroy(),
      )
    })
    owned.defer(() => void server.close())
    return outer
  }
  const lab: Lab = {
    dir,
    async exec(argv, input = '') {
      const socket = await request({ run: { argv, input } })
      const answer: RunAnswer = JSON.parse(await readLine(socket))
      socket.destroy()
      return { stdout: text(answer.stdout), stderr: text(answer.stderr), exitCode: answer.exitCode }
    },
    async readFile(path) {
      const { stdout, stderr, exitCode } = await lab.exec(['cat', path])
      if (exitCode !== 0) throw new Error(stderr.trim())
      return stdout
    },
    async writeFile(path, content) {
      const { stderr, exitCode } = await lab.exec(['sh', '-c', 'mkdir -p "$(dirname "$0")" && cat >"$0"', path], content)
      if (exitCode !== 0) throw new Error(stderr.trim())
    },
    async sh(script) {
      const { stdout, stderr, exitCode } = await lab.exec(['bash', '-euc', script])
      if (exitCode !== 0) throw new Error(`${script}\nended with ${exitCode}:\n${stdout}${stderr}`)
      return stdout.trimEnd()
    },
    forward(path) {
      const known = forwards.get(path) ?? forward(path)
      forwards.set(path, known)
      return known
    },
    async cri(cgroups) {
      const cri = connectCri(await lab.forward('/run/containerd/containerd.sock'), {
        readFile: (path) => lab.readFile(path),
        cgroups,
      })
      owned.defer(() => cri.close())
      return cri
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
  return lab
}
