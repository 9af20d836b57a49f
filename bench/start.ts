/**
 * A pod's start, RunPodSandbox through stock containerd's CRI, above its floor: the same QEMU command line, kernel and
 * devices with a static PID 1 that only says hello. Once cold, and once on a VM that has booted before (whose boot is in no
 * sample: the next begins when another waits). `runc` under the same containerd stands beside it.
 */
import type { Benchmark, Series } from './benchmark.ts'
import { cold, exampleVm, image, type Lab, microvm, openLab, type Step, stepSeries, stepsOf, waitingVm } from './lab.ts'
import { interleave, medianOf, timeMs } from './sampling.ts'
import type { PodOptions } from '#test/cri/config.ts'
import type { Pod } from '#test/cri/pod.ts'
import { vmmOf } from './vm/commands.ts'
import { cpuTimeMs } from './vm/cpu-time.ts'
import { floorInitramfs, takeApart } from './vm/image.ts'
import { type VmRun, runVm, sandboxDirectory } from './vm/run.ts'

const names = {
  floor: 'floor: QEMU to a static init\'s hello',
  pod: 'RunPodSandbox, kuasar-qemu',
  warm: 'RunPodSandbox, kuasar-qemu on a warm VM',
  runc: 'RunPodSandbox, runc',
  floorCpu: 'floor: QEMU\'s CPU time',
  podCpu: 'RunPodSandbox: QEMU\'s CPU time',
  warmCpu: 'RunPodSandbox on a warm VM: QEMU\'s CPU time',
} as const

export const start: Benchmark = {
  name: 'start',
  title: 'a pod\'s start above its floor, and runc beside it',
  rounds: 5,
  async run(rounds, progress) {
    await using lab = await openLab(async () => ({ warm: 1 }))
    progress('taking the image apart')
    const initramfs = await floorInitramfs(lab.node, await takeApart(lab.node, image, 'image'))
    const { commands, directory } = await exampleVm(lab)
    const starts = { pod: [] as Step[][], warm: [] as Step[][] }
    const cpuMs = { floor: [] as number[], pod: [] as number[], warm: [] as number[] }
    const floor = async () => {
      const { helloMs, helloCpuMs } = helloOf(await runVm(lab.node, commands, directory, { initramfs }))
      cpuMs.floor.push(helloCpuMs)
      return helloMs
    }
    const microvmStart = () =>
      podStart(lab, microvm, cold, async (pod) => {
        cpuMs.pod.push(cpuTimeMs(await vmmOf(sandboxDirectory(pod.id))))
        starts.pod.push(await stepsOf(lab, pod))
      })
    const warmStart = async () => {
      const vmm = await vmmOf(sandboxDirectory(await waitingVm(lab)))
      const beforeMs = cpuTimeMs(vmm)
      const ms = await podStart(lab, microvm, {}, async (pod) => {
        cpuMs.warm.push(cpuTimeMs(vmm) - beforeMs)
        starts.warm.push(await stepsOf(lab, pod))
      })
      await waitingVm(lab)
      return ms
    }
    const cases = [
      { name: names.floor, sample: floor },
      { name: names.pod, sample: microvmStart },
      { name: names.warm, sample: warmStart },
      { name: names.runc, sample: () => podStart(lab, 'runc', {}) },
    ]
    const timed = await interleave(rounds, 'ms', cases, progress)
    // The first of each was the warm-up.
    const series: Series[] = [
      ...timed,
      { name: names.floorCpu, unit: 'ms', samples: cpuMs.floor.slice(1) },
      { name: names.podCpu, unit: 'ms', samples: cpuMs.pod.slice(1) },
      { name: names.warmCpu, unit: 'ms', samples: cpuMs.warm.slice(1) },
    ]
    const ratio = (one: string, other: string) => medianOf(series, one) / medianOf(series, other)
    return {
      series: [...series, ...stepSeries('  of which ', starts.pod.slice(1)), ...stepSeries('  of which, warm, ', starts.warm.slice(1))],
      figures: [
        { name: 'pod start to its floor', value: ratio(names.pod, names.floor), unit: '×', target: { atMost: 1.6 } },
        { name: 'pod start on a warm VM to the same floor', value: ratio(names.warm, names.floor), unit: '×', target: { atMost: 1.6 } },
        { name: 'the same in QEMU\'s CPU time', value: ratio(names.podCpu, names.floorCpu), unit: '×' },
        { name: 'pod start to runc\'s', value: ratio(names.pod, names.runc), unit: '×' },
      ],
      notes: ['The steps overlap: "launch" spans the helpers and QEMU, "guest" all of guest.*.'],
    }
  },
}

/** Times RunPodSandbox; `meanwhile` runs before the pod is removed. */
async function podStart({ containerd }: Lab, handler: string, options: PodOptions, meanwhile: (pod: Pod) => Promise<void> = async () => {}): Promise<number> {
  let pod: Pod | undefined
  const ms = await timeMs(async () => (pod = await containerd.cri.runPod(options, handler)))
  if (pod !== undefined) await meanwhile(pod)
  await pod?.remove()
  return ms
}

function helloOf({ hello, console }: VmRun): NonNullable<VmRun['hello']> {
  if (hello === undefined) throw new Error(`the floor's guest said no hello; its console:\n${console}`)
  return hello
}
