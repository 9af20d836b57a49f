/**
 * The agent's start above bare Node's, in the same guest: the same image and PID 1, once with the agent and once with a
 * script of three lines in its place. Both are counted from PID 1's agent-exec mark: bare Node to its first line, the
 * agent to its own (`agent-main`) and to where containerd may call it (`listening`), which holds one Hello of the host.
 */
import { join } from 'node:path'
import type { Benchmark } from './benchmark.ts'
import { exampleVm, image, type Lab, microvm, openLab, type Step, stepsOf } from './lab.ts'
import { interleave, medianOf } from './sampling.ts'
import { rootfsWithAgent, takeApart } from './vm/image.ts'
import { type VmRun, runVm } from './vm/run.ts'

const names = {
  bare: 'bare Node to its first line',
  main: 'the agent to its first line',
  listening: 'the agent to listening',
} as const

export const agent: Benchmark = {
  name: 'agent',
  title: 'the agent\'s start above bare Node\'s in the same guest',
  rounds: 5,
  async run(rounds, progress) {
    await using lab = await openLab()
    progress('putting bare Node in the agent\'s place')
    const files = { bundle: join(import.meta.dirname, 'vm/bare.cjs'), snapshot: false }
    const rootfs = await rootfsWithAgent(lab.node, await takeApart(lab.node, image, 'image'), files, 'bare')
    const { commands, directory } = await exampleVm(lab)
    const listeningMs: number[] = []
    const cases = [
      { name: names.bare, sample: async () => bareMs(await runVm(lab.node, commands, directory, { rootfs })) },
      {
        name: names.main,
        async sample() {
          const steps = await startedSteps(lab)
          listeningMs.push(between(steps, 'guest.agent-exec', 'guest.listening'))
          return between(steps, 'guest.agent-exec', 'guest.agent-main')
        },
      },
    ]
    const measured = await interleave(rounds, 'ms', cases, progress)
    // The first was the warm-up.
    const series = [...measured, { name: names.listening, unit: 'ms' as const, samples: listeningMs.slice(1) }]
    const bare = medianOf(series, names.bare)
    return {
      series,
      figures: [
        { name: 'agent start to bare Node\'s', value: medianOf(series, names.main) / bare, unit: '×', target: { atMost: 1.3 } },
        { name: 'agent listening to bare Node\'s start', value: medianOf(series, names.listening) / bare, unit: '×' },
      ],
    }
  },
}

async function startedSteps(lab: Lab): Promise<Step[]> {
  await using pod = await lab.containerd.cri.runPod({}, microvm)
  return await stepsOf(lab, pod)
}

function between(steps: readonly Step[], from: string, to: string): number {
  const at = (name: string) => steps.find((step) => step.name === name)?.startMs ?? Number.NaN
  return at(to) - at(from)
}

function bareMs({ console }: VmRun): number {
  const nanos = /bare node: (\d+) ns/.exec(console)?.[1]
  if (nanos === undefined) throw new Error(`bare Node said nothing; its console:\n${console}`)
  return Number(nanos) / 1e6
}
