/** The agent put together: the one file of the guest that knows every part. */
import { mkdirSync } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { RuntimeError } from '#shared/errors.ts'
import { logLevels } from '#shared/log.ts'
import type { Os } from '#shared/os/contract.ts'
import { ServedService } from '#shared/ttrpc/server.ts'
import { applyPod } from './boot.ts'
import { BootMarks } from './boot-marks.ts'
import { execInput, execOutput, type GuestConfig, initInput, initOutput } from './config.ts'
import { say } from './console.ts'
import { Containers } from './container/containers.ts'
import { Forwards } from './forward/forwards.ts'
import { hugepageSizes, kernelVersion, protectFromOom } from './kernel.ts'
import { dial, listen, parseEndpoint, writeBytesMax } from './link/endpoint.ts'
import { EventQueue } from './link/events.ts'
import { HostLink } from './link/link.ts'
import { AgentLog } from './link/logs.ts'
import { Network } from './network/apply.ts'
import { podPaths } from './pod-files.ts'
import { ExitParser, Reaper } from './reaper.ts'
import type { GuestRpc } from './rpc.ts'
import { Crun } from './runtime/crun.ts'
import { PodPidNamespace } from './runtime/pod-pid.ts'
import { createAgentService } from './services/agent.ts'
import { createLogSender, createPreparer, createPublisher, helloOf, marksOf, podOf } from './services/host.ts'
import { serveConnection } from './services/connection.ts'
import { withEncodedData } from './services/encoded-data.ts'
import { createTaskService } from './services/task.ts'
import { Storages } from './storage/storages.ts'
import { Submounts } from './storage/submounts.ts'
import { StreamRegistry } from './streams/registry.ts'

/** Runs until the VM ends. Rejects when the guest cannot do its work: the caller says why and exits. */
export async function runAgent(config: GuestConfig, os: Os, rpc: GuestRpc, env: NodeJS.ProcessEnv): Promise<never> {
  const marks = new BootMarks(env, () => os.processes.bootTimeNanos())
  marks.mark('agent-main')
  protectFromOom()
  const agentLog = new AgentLog(levelOf(config.logLevel), say)
  const { log } = agentLog
  const { paths, endpoints } = config
  const directories = { bundles: `${paths.run}/containers`, consoles: `${paths.run}/console`, crun: `${paths.run}/crun` }
  for (const directory of Object.values(directories)) mkdirSync(directory, { recursive: true, mode: 0o700 })

  const host = parseEndpoint(endpoints.host)
  const streams = new StreamRegistry()
  const storages = new Storages(os.mounts, paths.run)
  const network = new Network(paths.sysctl, paths.run, os.processes)
  const reaper = new Reaper()
  const forwards = new Forwards(log)

  const link = new HostLink({
    rpc,
    log,
    writeBytesMax: writeBytesMax(host),
    dial: () => dial(host, os),
    hello: (resumed) => helloOf(kernelVersion(), resumed, marks.all(), os.processes.bootTimeNanos()),
    configure: async (answer) => {
      marks.mark('hello')
      const pod = podOf(answer)
      if (pod.logLevel !== '') agentLog.level = levelOf(pod.logLevel)
      await applyPod(pod, config, os, storages, network)
      marks.mark('configured')
      await listen(parseEndpoint(endpoints.listen), os, (socket) => serveConnection(socket, services))
      await listen(parseEndpoint(endpoints.forward), os, (carrier) => forwards.accept(carrier))
      marks.mark('listening')
    },
    lost: () => forwards.reset(),
    ready: async (calls) => {
      await calls.Ready({ boot: marksOf(marks.all()), boottimeNanos: String(os.processes.bootTimeNanos()) })
      log.info('ready')
    },
  })
  agentLog.forwardTo(createLogSender(link))

  const bootTimeNanos = () => os.processes.bootTimeNanos()
  const containers = new Containers({
    runtime: new Crun(paths.crun, directories.crun, os.processes),
    reaper,
    preparer: createPreparer(link, [`${paths.run}/shared`, `${paths.run}/roots`], log),
    events: new EventQueue(createPublisher(link, rpc, bootTimeNanos), log),
    storages,
    submounts: new Submounts(os.mounts),
    podPid: new PodPidNamespace(paths.pause, reaper, bootTimeNanos),
    io: { os, streams, consoleDir: directories.consoles },
    initPolicy: { output: initOutput, input: initInput },
    execPolicy: { output: execOutput, input: execInput },
    log,
    bootTimeNanos,
    bundleRoot: directories.bundles,
    cgroupRoot: paths.cgroupRoot,
    podCgroup: paths.podCgroup,
    spec: { ...podPaths(paths.run), hugepageSizes: hugepageSizes() },
  })
  const services = {
    rpc,
    streams,
    served: [
      ServedService.of(rpc.task, createTaskService(containers, rpc)),
      ServedService.of(
        rpc.agent,
        createAgentService({
          containers,
          network,
          link,
          rpc,
          os,
          log,
          podCgroup: `${paths.cgroupRoot}${paths.podCgroup}`,
          names: { agent: { config, containers, forwards, link, log, network, os, reaper, storages, streams } },
        }),
      ),
    ],
    streaming: withEncodedData(rpc.streaming),
    logsCalls: () => agentLog.level === 'debug' || agentLog.level === 'trace',
    writeBytesMax: writeBytesMax(parseEndpoint(endpoints.listen)),
    log,
  }
  return await Promise.race([link.run(), readExits(os, config.exitsFd, reaper)])
}

/** PID 1 outlives the agent, so an end of its pipe is a fault. */
async function readExits(os: Os, fd: number, reaper: Reaper): Promise<never> {
  const parser = new ExitParser()
  await pipeline(os.descriptors.stream(fd, 'read'), async (chunks: AsyncIterable<Buffer>) => {
    for await (const chunk of chunks) for (const record of parser.push(chunk)) reaper.deliver(record)
  }).catch((cause: unknown) => {
    throw new RuntimeError('INTERNAL', `reading exits from descriptor ${fd}`, { cause })
  })
  throw new RuntimeError('INTERNAL', `PID 1 closed the exit pipe (descriptor ${fd})`)
}

function levelOf(text: string) {
  return logLevels.find((level) => level === text) ?? 'info'
}
