/**
 * The files of a cgroup v2 directory as numbers (kernel: Documentation/admin-guide/cgroup-v2.rst). Pure: contents in,
 * metrics out. Numbers stay decimal strings, since counters exceed 2⁵³; a file that does not exist leaves its part out.
 */

/** What the kernel writes for "no limit", and containerd as the largest number. */
const UNLIMITED = '18446744073709551615'

export interface Pressure {
  readonly avg10: number
  readonly avg60: number
  readonly avg300: number
  /** `µs` */
  readonly total: string
}

export interface Pressures {
  readonly some?: Pressure
  readonly full?: Pressure
}

/** Named as io.containerd.cgroups.v2.Metrics names them, in camelCase. */
export interface CgroupMetrics {
  readonly pids?: { readonly current: string; readonly limit: string }
  readonly cpu?: Readonly<Record<string, string>> & { readonly psi?: never }
  readonly cpuPressure?: Pressures
  readonly memory?: Readonly<Record<string, string>>
  readonly memoryPressure?: Pressures
  readonly memoryEvents?: Readonly<Record<string, string>>
  readonly io?: readonly IoEntry[]
  readonly ioPressure?: Pressures
  readonly hugetlb: readonly { readonly pagesize: string; readonly current: string; readonly max: string }[]
}

export interface IoEntry {
  readonly major: string
  readonly minor: string
  readonly rbytes: string
  readonly wbytes: string
  readonly rios: string
  readonly wios: string
}

/** The files `metricsOf` reads, huge pages aside. */
export const metricFiles = [
  'pids.current', 'pids.max', 'cpu.stat', 'cpu.pressure', 'memory.stat', 'memory.current', 'memory.max', 'memory.peak',
  'memory.swap.current', 'memory.swap.max', 'memory.swap.peak', 'memory.events', 'memory.pressure', 'io.stat', 'io.pressure',
] as const

/** Fields of MemoryStat that are lines of memory.stat under the same name. */
const memoryStatKeys = [
  'anon', 'file', 'kernel_stack', 'slab', 'sock', 'shmem', 'file_mapped', 'file_dirty', 'file_writeback', 'anon_thp',
  'inactive_anon', 'active_anon', 'inactive_file', 'active_file', 'unevictable', 'slab_reclaimable', 'slab_unreclaimable',
  'pgfault', 'pgmajfault', 'workingset_nodereclaim', 'pgrefill', 'pgscan', 'pgsteal', 'pgactivate', 'pgdeactivate',
  'pglazyfree', 'pglazyfreed', 'thp_fault_alloc', 'thp_collapse_alloc',
]

export function metricsOf(files: ReadonlyMap<string, string>): CgroupMetrics {
  const cpu = files.get('cpu.stat')
  const events = files.get('memory.events')
  const io = files.get('io.stat')
  const [cpuPressure, memoryPressure, ioPressure] = ['cpu', 'memory', 'io'].map((name) => parsePressure(files.get(`${name}.pressure`)))
  const memory = memoryOf(files)
  const pids = files.get('pids.current')
  return {
    ...(pids === undefined ? {} : { pids: { current: number(pids), limit: number(files.get('pids.max') ?? '0') } }),
    ...(cpu === undefined ? {} : { cpu: camelCased(parseKeyed(cpu)) }),
    ...(cpuPressure === undefined ? {} : { cpuPressure }),
    ...(memory === undefined ? {} : { memory }),
    ...(memoryPressure === undefined ? {} : { memoryPressure }),
    ...(events === undefined ? {} : { memoryEvents: camelCased(parseKeyed(events)) }),
    ...(io === undefined ? {} : { io: parseIo(io) }),
    ...(ioPressure === undefined ? {} : { ioPressure }),
    hugetlb: hugetlbOf(files),
  }
}

/** "key value" lines. */
export function parseKeyed(text: string): Map<string, string> {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [key, value] = line.split(' ')
    if (key !== undefined && value !== undefined && /^\d+$/.test(value)) values.set(key, value)
  }
  return values
}

function memoryOf(files: ReadonlyMap<string, string>): Record<string, string> | undefined {
  const current = files.get('memory.current')
  const stat = files.get('memory.stat')
  if (current === undefined && stat === undefined) return undefined
  const lines = parseKeyed(stat ?? '')
  const memory: Record<string, string> = camelCased(new Map([...lines].filter(([key]) => memoryStatKeys.includes(key))))
  // Since Linux 5.9 the working set counters are kept apart for anonymous and file pages.
  for (const name of ['refault', 'activate']) {
    const parts = ['', '_anon', '_file'].map((suffix) => BigInt(lines.get(`workingset_${name}${suffix}`) ?? 0))
    memory[`workingset${name[0]?.toUpperCase()}${name.slice(1)}`] = String(parts.reduce((sum, part) => sum + part, 0n))
  }
  const limits = {
    usage: 'memory.current', usageLimit: 'memory.max', maxUsage: 'memory.peak',
    swapUsage: 'memory.swap.current', swapLimit: 'memory.swap.max', swapMaxUsage: 'memory.swap.peak',
  }
  for (const [field, name] of Object.entries(limits)) {
    const text = files.get(name)
    if (text !== undefined) memory[field] = number(text)
  }
  return memory
}

/** "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" */
function parsePressure(text: string | undefined): Pressures | undefined {
  if (text === undefined) return undefined
  const entries = text.split('\n').flatMap((line) => {
    const [kind, ...pairs] = line.split(' ')
    if (kind !== 'some' && kind !== 'full') return []
    const values = new Map(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]))
    const average = (name: string) => Number(values.get(name) ?? 0)
    return [[kind, { avg10: average('avg10'), avg60: average('avg60'), avg300: average('avg300'), total: values.get('total') ?? '0' }]]
  })
  return entries.length === 0 ? undefined : Object.fromEntries(entries)
}

/** "8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=0 dios=0" */
function parseIo(text: string): IoEntry[] {
  return text.split('\n').flatMap((line) => {
    const [device = '', ...pairs] = line.split(' ')
    const [major, minor] = device.split(':')
    if (major === undefined || minor === undefined || !/^\d+$/.test(major) || !/^\d+$/.test(minor)) return []
    const values = new Map(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]))
    const count = (name: string) => number(values.get(name) ?? '0')
    return [{ major, minor, rbytes: count('rbytes'), wbytes: count('wbytes'), rios: count('rios'), wios: count('wios') }]
  })
}

function hugetlbOf(files: ReadonlyMap<string, string>): { pagesize: string; current: string; max: string }[] {
  return [...files.keys()].flatMap((name) => {
    const pagesize = /^hugetlb\.([^.]+)\.current$/.exec(name)?.[1]
    if (pagesize === undefined) return []
    return [{ pagesize, current: number(files.get(name) ?? '0'), max: number(files.get(`hugetlb.${pagesize}.max`) ?? '0') }]
  })
}

/** A single value; "max" is no limit. Anything else that is no number reads as 0. */
function number(text: string): string {
  const value = text.trim()
  return value === 'max' ? UNLIMITED : /^\d+$/.test(value) ? value : '0'
}

function camelCased(values: ReadonlyMap<string, string>): Record<string, string> {
  return Object.fromEntries([...values].map(([key, value]) => [key.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), value]))
}
