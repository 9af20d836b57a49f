/**
 * What an idle pod costs beside what its containers use: in the guest its kernel and agent, on the host the VMM and its
 * helpers. RuntimeClass's overhead.podFixed is their sum, for the kubelet limits the pod's cgroup to the containers'
 * memory and that.
 */
import { readFile } from 'node:fs/promises'
import { recordOf } from '#test/support/faults.ts'
import { idle, inside } from '#test/support/kuasar.ts'
import type { Benchmark, Series } from './benchmark.ts'
import { microvm, openLab, type Lab } from './lab.ts'
import { median } from './sampling.ts'

const names = {
  vmm: 'host: VMM and helpers, without the VM\'s memory',
  touched: 'host: pages of the VM\'s memory that were touched',
  kernel: 'guest: memory its kernel keeps for itself',
  used: 'guest: memory in use, kernel, agent and an idle container',
} as const

type Reading = Readonly<Record<keyof typeof names, number>>

export const overhead: Benchmark = {
  name: 'overhead',
  title: 'memory of an idle pod beside what its containers use',
  rounds: 3,
  async run(rounds, progress) {
    await using lab = await openLab()
    const readings: Reading[] = []
    for (let round = 1; round <= rounds; round++) {
      readings.push(await onePod(lab))
      progress(`round ${round} of ${rounds}: ${JSON.stringify(readings.at(-1))} KiB`)
    }
    const samples = (key: keyof Reading): readonly number[] => readings.map((reading) => reading[key])
    const keys = ['vmm', 'touched', 'kernel', 'used'] as const
    const series = keys.map((key): Series => ({ name: names[key], unit: 'KiB', samples: samples(key) }))
    const guest = median(samples('kernel')) + median(samples('used'))
    return {
      series,
      figures: [
        { name: 'guest.reserve_mib must cover', value: guest, unit: 'KiB' },
        { name: 'overhead.podFixed.memory must cover guest.reserve_mib and', value: median(samples('vmm')), unit: 'KiB' },
      ],
      notes: ['Under emulation the VMM holds its translated code as well, which grows with what the guest runs, to 256 MiB.'],
    }
  },
}

async function onePod({ node, containerd }: Lab): Promise<Reading> {
  await using pod = await containerd.cri.runPod({}, microvm)
  const container = await pod.run(idle)
  const meminfo = fields(await inside(container, 'cat /proc/meminfo'))
  const { owned, plan } = await recordOf(node, pod.id)
  let vmm = 0
  let touched = 0
  for (const resource of owned) {
    if (resource.kind !== 'process' || resource.pid === undefined) continue
    // The VM's memory is a memfd that the VMM and its helpers map: shared memory, and the only such they have.
    const memory = fields(await readFile(node.path(`/proc/${resource.pid}/smaps_rollup`), 'utf8'))
    vmm += memory('Pss_Anon') + memory('Pss_File')
    touched += memory('Pss_Shmem')
  }
  const total = meminfo('MemTotal')
  return { vmm, touched, kernel: plan.memoryMiB * 1024 - total, used: total - meminfo('MemAvailable') }
}

/** Values in KiB by name. Sources: proc_meminfo(5), proc_pid_smaps(5). */
function fields(text: string): (name: string) => number {
  return (name) => {
    const found = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1]
    if (found === undefined) throw new Error(`there is no ${name} in ${JSON.stringify(text.slice(0, 200))}`)
    return Number(found)
  }
}
