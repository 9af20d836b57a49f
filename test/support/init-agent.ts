/**
 * A stand-in for the agent, run by the guest's init: makes orphans, reads the exit pipe (descriptor 3) and prints one
 * JSON line of what it saw. The first argument names the scene.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, readFileSync, readSync, readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { setImmediate } from 'node:timers/promises'

const EXIT_PIPE_FD = 3
const RECORD_BYTES = 24

interface Exit {
  readonly pid: number
  readonly status: number
  readonly realtimeNanos: bigint
  readonly bootTimeNanos: bigint
}

function readExit(): Exit {
  const bytes = Buffer.alloc(RECORD_BYTES)
  const length = readSync(EXIT_PIPE_FD, bytes)
  if (length !== RECORD_BYTES) throw new Error(`read ${length} bytes of an exit record`)
  return {
    pid: bytes.readUInt32LE(0),
    status: bytes.readUInt32LE(4),
    realtimeNanos: bytes.readBigUInt64LE(8),
    bootTimeNanos: bytes.readBigUInt64LE(16),
  }
}

/** Runs `script` in a shell, whose background processes become orphans when it ends; answers what it printed. */
async function shell(script: string): Promise<string> {
  const child = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  const output: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => output.push(chunk))
  await once(child, 'close')
  return Buffer.concat(output).toString()
}

function zombies(): number {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isZombie(name)).length
}

function isZombie(pid: string): boolean {
  try {
    return / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

/** One orphan for each way to end, each printing its pid first. */
async function kinds(): Promise<object> {
  const ends = ['exit 0', 'exit 7', 'exit 255', 'kill -9 $$', 'kill -TERM $$']
  const printed = await shell(ends.map((end) => `sh -c 'echo $$; ${end}' &`).join('\n'))
  const seen = new Map<number, number>()
  const pids = printed.trim().split('\n').map(Number)
  const before = process.hrtime.bigint()
  let timesInOrder = true
  for (let last = 0n; seen.size < ends.length; ) {
    const exit = readExit()
    if (pids.includes(exit.pid)) seen.set(exit.pid, exit.status)
    timesInOrder &&= exit.bootTimeNanos >= last && exit.realtimeNanos > before
    last = exit.bootTimeNanos
  }
  return { statuses: [...seen.values()].sort((a, b) => a - b), timesInOrder }
}

/** `count` orphans, of which at least `zombiesMin` are zombies before the first record is read. */
async function flood(count: number, zombiesMin: number): Promise<object> {
  const printed = await shell(`${resolve(import.meta.dirname, '../../build/init/orphans')} ${count}`)
  const expected = new Map(printed.trim().split('\n').map((pid, index) => [Number(pid), (index % 200) << 8]))
  while (zombies() < zombiesMin) await setImmediate()
  const pids = new Set<number>()
  let wrong = 0
  while (pids.size < count) {
    const { pid, status } = readExit()
    if (pids.has(pid) || expected.get(pid) !== status) wrong++
    pids.add(pid)
  }
  while (zombies() > 0) await setImmediate()
  return { records: pids.size, wrong }
}

const [scene = '', argument = '0', second = '0'] = process.argv.slice(2)
switch (scene) {
  case 'kinds':
    console.log(JSON.stringify(await kinds()))
    break
  case 'flood':
    console.log(JSON.stringify(await flood(Number(argument), Number(second))))
    break
  case 'environment':
    console.log(JSON.stringify({ env: process.env, stdin: readFileSync(0, 'utf8'), fds: readdirSync('/proc/self/fd').length }))
    break
  case 'die':
    process.kill(process.pid, argument)
    await once(process, 'never')
    break
  case 'stumble':
    // Stopped and continued by another before anyone can tell.
    await shell('kill -STOP $PPID; kill -CONT $PPID')
    console.log(JSON.stringify({ goesOn: true }))
    break
  case 'exit':
    process.exit(Number(argument))
    break
  case 'close-pipe':
    closeSync(EXIT_PIPE_FD)
    await shell('true & ')
    setInterval(() => {}, 1000)
    break
  default:
    throw new Error(`unknown scene ${scene}`)
}
