/** A cgroup's numbers as io.containerd.cgroups.v2.Metrics. */
import type { AnyCodec, AnyValue } from '#shared/rpc/any.ts'
import type { Cgroup } from '../runtime/cgroup.ts'
import { metricFiles, metricsOf } from '../runtime/cgroup-files.ts'

/** Throws NOT_FOUND when the cgroup is gone: containerd takes an error well, and an empty answer not at all. */
export async function packMetrics(any: AnyCodec, cgroup: Cgroup): Promise<AnyValue> {
  const hugepages = cgroup.names().filter((name) => /^hugetlb\.[^.]+\.(?:current|max)$/.test(name))
  const metrics = metricsOf(await cgroup.read([...metricFiles, ...hugepages]))
  const { pids, cpu, cpuPressure, memory, memoryPressure, memoryEvents, io, ioPressure, hugetlb } = metrics
  return any.pack('io.containerd.cgroups.v2.Metrics', {
    ...(pids === undefined ? {} : { pids }),
    ...(cpu === undefined ? {} : { cpu: { ...cpu, ...(cpuPressure === undefined ? {} : { psi: cpuPressure }) } }),
    ...(memory === undefined ? {} : { memory: { ...memory, ...(memoryPressure === undefined ? {} : { psi: memoryPressure }) } }),
    ...(memoryEvents === undefined ? {} : { memoryEvents }),
    ...(io === undefined ? {} : { io: { usage: [...io], ...(ioPressure === undefined ? {} : { psi: ioPressure }) } }),
    hugetlb: [...hugetlb],
  })
}
