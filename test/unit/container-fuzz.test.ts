/**
 * Specs bent at random. Whatever comes of one, it is an answer in which no path of the host is left, or one refusal
 * with a code of its own.
 */
import t from 'tap'
import { RuntimeError } from '#shared/errors.ts'
import { formatJson, parseJson } from '#shared/json.ts'
import { parseSpec } from '#host/container/oci.ts'
import { CONTAINER_STORAGES, POD_STORAGES, SHARED_STORAGES } from '#host/container/memory.ts'
import { planContainer, sourcesOf } from '#host/container/plan.ts'
import { guestSpec } from '#host/container/spec.ts'
import { HUGETLBFS, TMPFS, type SourceFacts } from '#host/container/source.ts'
import { bind, criSpec, directory, file } from '../support/container-spec.ts'

const SEED = 0x5eed_c0de
const ROUNDS = 8000

/** mulberry32: small, seeded, good enough to wander. */
function generator(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

const random = generator(SEED)
const pick = <T>(values: readonly T[]): T => {
  const value = values[random(values.length)]
  if (value === undefined) throw new Error('picked from nothing')
  return value
}

const HOST = '/host/volumes'
const emptyDir = '/host/pods/1-2/volumes/kubernetes.io~empty-dir/v'
const subPath = '/host/pods/1-2/volume-subpaths/v/c/0'
const strings = [subPath, '', '/', '..', '/..', 'bind', 'rbind', 'rprivate', 'rslave', 'rshared', 'ro', 'rw', 'rro', 'proc', 'tmpfs', 'shm', 'pid', 'user', '/dev/shm', HOST, emptyDir, '__proto__', '/proc/0/ns/pid', '\ud800', 'x'.repeat(300)]
const others = [null, true, 0, -1, 1.5, 2 ** 60, [], {}, [[]], [null], { type: 'bind' }, { destination: '/x' }]

/** The value with one place in it changed, removed or doubled. */
function bend(value: unknown): unknown {
  if (random(6) === 0 || typeof value !== 'object' || value === null) return random(2) === 0 ? pick(strings) : pick(others)
  if (Array.isArray(value)) {
    const items: unknown[] = [...value]
    const at = random(items.length + 1)
    if (random(8) === 0) return [...items, ...items]
    if (random(8) === 0) return items.toSpliced(at, 1)
    return at === items.length ? [...items, pick(others)] : items.with(at, bend(items[at]))
  }
  const keys = Object.keys(value)
  const key = keys.length === 0 || random(10) === 0 ? pick(strings) : pick(keys)
  const copy: Record<string, unknown> = { ...value }
  if (random(10) === 0) delete copy[key]
  else copy[key] = bend(copy[key])
  return copy
}

const facts: readonly SourceFacts[] = [
  directory(),
  directory(TMPFS),
  directory(HUGETLBFS),
  directory(HUGETLBFS, 0, { fsBlockBytes: 2 * 1024 * 1024 }),
  directory(TMPFS, 4096, { fsPath: '/part' }),
  directory(0x9fa0),
  file(),
  { kind: 'missing' },
  { kind: 'socket' },
  { kind: 'char', major: 1, minor: 3 },
  { kind: 'char', major: 9, minor: 9 },
  { kind: 'block', major: 8, minor: 0 },
]

const start = parseJson(
  criSpec({
    mounts: [bind(`${HOST}/a`, '/a'), bind(`${HOST}/b`, '/b', 'ro'), bind(emptyDir, '/c'), bind(subPath, '/d'), bind('/host/shm', '/dev/shm')],
    linux: { devices: [{ path: '/dev/null', type: 'c', major: 1, minor: 3 }], uidMappings: [], seccomp: {} },
    top: { hooks: { prestart: [{ path: `${HOST}/hook` }] } },
    process: { apparmorProfile: 'x' },
  }),
  'the start',
)

const guestSources = ['/guest/c/volumes/', '/guest/_volumes/', `${POD_STORAGES}/`, `${SHARED_STORAGES}/`, `${CONTAINER_STORAGES}/c/`, '/dev/null']

function run(json: string): void {
  const spec = parseSpec(json, 'the spec')
  const sources = new Map(sourcesOf(spec).map((source) => [source, random(3) === 0 ? pick(facts) : directory()]))
  const plan = planContainer({
    id: 'c',
    hugepagesMiB: 2,
    spec,
    facts: sources,
    snapshotter: 'overlayfs',
    snapshot: [{ type: 'overlay', source: 'overlay', target: '', options: [`lowerdir=${HOST}/l`] }],
    hostDir: '/share/c',
    guestDir: '/guest/c',
    guestRootDir: '/roots/c',
    podUid: '1-2',
    hostVolumesDir: '/share/_volumes',
    guestVolumesDir: '/guest/_volumes',
    commonName: (key) => `${key}-0`,
  })
  const guest = guestSpec(spec, plan, 2)
  formatJson(guest.spec)
  for (const { type, source } of plan.mounts)
    if (type === 'bind') check(guestSources.some((prefix) => source?.startsWith(prefix) === true), `bind of ${source}`)
  for (const { target } of [plan.rootfs, ...plan.volumes]) check(/^\/share\/(c\/rootfs|c\/volumes\/\d+|_volumes\/[\w.]+-0)$/.test(target), `target ${target}`)
  for (const { target } of plan.storages) check(/^\/run\/kuasar\/storages\/((pod|shared)\/[\w-]+|container\/c\/\d+)$/.test(target), `storage ${target}`)
  check(typeof guest.spec === 'object' && guest.spec !== null && !('hooks' in guest.spec), 'hooks are gone')
}

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(`broken: ${what}`)
}

const outcomes = new Map<string, number>()
const broken: unknown[] = []
for (let round = 0; round < ROUNDS; round++) {
  let spec: unknown = start
  for (let bends = random(6); bends >= 0; bends--) spec = bend(spec)
  const json = JSON.stringify(spec)
  let outcome = 'answered'
  try {
    run(json)
  } catch (error) {
    if (!(error instanceof RuntimeError)) broken.push({ seed: SEED, round, json, error: String(error) })
    outcome = error instanceof RuntimeError ? error.code : 'broken'
  }
  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
}

t.comment([...outcomes].map(([outcome, count]) => `${outcome} ${count}`).join(', '))
t.same(broken.slice(0, 3), [])
t.same([...outcomes.keys()].toSorted(), ['FAILED_PRECONDITION', 'INVALID_ARGUMENT', 'UNIMPLEMENTED', 'answered'], 'each way out was taken')
