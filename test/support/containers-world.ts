/** The agent's containers on an OCI runtime and a sandboxer that do as a test says. Nothing runs: a process ends when the test says so. */
import { existsSync, mkdirSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { execInput, execOutput, initInput, initOutput } from '#guest/config.ts'
import type { Container } from '#guest/container/container.ts'
import { Containers } from '#guest/container/containers.ts'
import type { PidNamespaceMode, TaskEvent } from '#guest/container/ports.ts'
import type { Exit } from '#guest/container/state.ts'
import type { Stdio } from '#guest/container/stdio.ts'
import { PodPidNamespace } from '#guest/runtime/pod-pid.ts'
import { type Storage, Storages } from '#guest/storage/storages.ts'
import { Submounts } from '#guest/storage/submounts.ts'
import { StreamRegistry } from '#guest/streams/registry.ts'
import { silentLog } from '#shared/log.ts'
import type { Terminals } from '#shared/os/contract.ts'
import { createFakeOs } from '#shared/os/fake.ts'
import { createNativeOs } from '#shared/os/native.ts'

/** The first pid that is handed out: above what Linux ever gives (PID_MAX_LIMIT), so that no signal finds anybody. */
const PID_FIRST = 2 ** 22 + 1

/** Real pipes: the fake's are made by a program each. */
const { descriptors } = createNativeOs()

export const noStdio: Stdio = { stdin: '', stdout: '', stderr: '', terminal: false }

const address = (name: string) => `ttrpc+hvsock:///x:1024?streaming_id=${name}`
/** The three streams of a process, as containerd names them. */
export const streams = (id: string) => ({ stdin: address(`${id}-stdin`), stdout: address(`${id}-stdout`), stderr: address(`${id}-stderr`), terminal: false })

export interface ContainersWorldOptions {
  readonly storages?: readonly Storage[]
  readonly terminals?: Terminals
  readonly publish?: (event: TaskEvent) => Promise<void>
}

export type ContainersWorld = ReturnType<typeof containersWorld>

/** `dir`: an empty directory for bundles, cgroups and mount points. */
export function containersWorld(dir: string, { storages = [], terminals, publish = async () => {} }: ContainersWorldOptions = {}) {
  const os = createFakeOs()
  const streams = new StreamRegistry()
  const claims = new Map<number, PromiseWithResolvers<Exit>>()
  const claimOf = (pid: number) => {
    const claim = claims.get(pid) ?? Promise.withResolvers<Exit>()
    claims.set(pid, claim)
    return claim
  }
  let pids = PID_FIRST
  const step = async (name: string) => {
    world.steps.push(name)
    await world.before(name)
  }
  const cgroup = (id: string) => {
    mkdirSync(`${dir}/cgroup/${id}`, { recursive: true })
    return `${dir}/cgroup/${id}`
  }
  const exits = { claim: (pid: number) => claimOf(pid).promise }
  const bootTimeNanos = () => os.processes.bootTimeNanos()
  const spec = Buffer.from(JSON.stringify({ root: { path: dir }, process: { args: ['a'], cwd: '/' } }))
  const containers = new Containers({
    runtime: {
      async create({ containerId }) {
        cgroup(containerId)
        await step(`create ${containerId}`)
        return world.pid ?? pids++
      },
      start: (id) => step(`start ${id}`),
      async exec({ containerId, execId }) {
        await step(`exec ${containerId} ${execId}`)
        return world.pid ?? pids++
      },
      pause: (id) => step(`pause ${id}`),
      resume: (id) => step(`resume ${id}`),
      update: (id) => step(`update ${id}`),
      delete: (id) => step(`delete ${id}`),
    },
    reaper: exits,
    preparer: {
      async prepare(id) {
        await step(`prepare ${id}`)
        return { spec, storages, pidNamespace: world.pidNamespace }
      },
      release: (id) => step(`release ${id}`),
    },
    events: {
      publish(event) {
        world.events.push(event)
        return publish(event)
      },
    },
    storages: new Storages(os.mounts, dir),
    submounts: new Submounts(os.mounts),
    podPid: new PodPidNamespace(['false'], exits, bootTimeNanos),
    io: { os: { ...os, descriptors, terminals: terminals ?? os.terminals }, streams, consoleDir: dir },
    initPolicy: { output: initOutput, input: initInput },
    execPolicy: { output: execOutput, input: execInput },
    log: silentLog,
    bootTimeNanos,
    bundleRoot: `${dir}/bundles`,
    cgroupRoot: dir,
    podCgroup: '/cgroup',
    spec: { hosts: '/hosts', hostname: '/hostname', resolvConf: '/resolv.conf', shm: '/shm', hugepageSizes: [] },
  })
  const world = {
    containers,
    os,
    streams,
    /** What was asked of the runtime and the sandboxer, like "create c", in order. */
    steps: [] as string[],
    events: [] as TaskEvent[],
    /** Called with each step before it is done: it may wait, or throw. */
    before: (async () => {}) as (step: string) => Promise<void>,
    /** The pid of all that is made, where one is wanted that exists. */
    pid: undefined as number | undefined,
    /** Of the containers that are made. */
    pidNamespace: { kind: 'private' } as PidNamespaceMode,
    /** Made when it is not there. */
    cgroup,
    create: (id: string, stdio = noStdio, signal = new AbortController().signal): Promise<Container> => containers.create({ id, bundle: '/b', stdio }, signal),
    /** Created and started. */
    async run(id: string): Promise<Container> {
      const container = await world.create(id)
      await containers.start(container)
      return container
    },
    /** The kernel's word that the process is gone. */
    exit: (pid: number, status: number) => claimOf(pid).resolve({ status, atNanos: 5n }),
    /** Whether the kernel was asked to kill all of the container. */
    killed: (id: string) => existsSync(`${dir}/cgroup/${id}/cgroup.kill`),
    kinds: () => world.events.map(({ kind }) => kind),
    [Symbol.asyncDispose]: () => os[Symbol.asyncDispose](),
  }
  return world
}

/** Looks at every turn of the event loop. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

/** The step waits until it is let go. */
export function held(world: ContainersWorld, step: string) {
  const { promise, resolve } = Promise.withResolvers<void>()
  world.before = async (name) => (name === step ? await promise : undefined)
  return { reached: () => until(() => world.steps.includes(step)), go: resolve }
}
