/**
 * critest, built from its Go module at the version go.mod pins. Nothing of the module is kept here: it comes through
 * Go's module proxy, checked against go.sum.
 *
 * One constant is replaced while it is compiled. critest pulls an image by a digest that is a hash of bytes in its
 * authors' registry; a node without the internet serves an image of its own, whose digest is another.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { leavesOf } from './ginkgo.ts'

const folder = import.meta.dirname
const moduleName = 'sigs.k8s.io/cri-tools'

/** Where what conformance builds and finds out is kept. */
export const conformanceDir = join(folder, '../../build/conformance')

export interface Critest {
  /** Of the file, on the outer machine. */
  readonly path: string
  readonly version: string
}

/** Compiles critest to expect `digest` ("sha256:…") of its image test-image-digest. Kept until any input changes. */
export async function buildCritest(digest: string, say: (line: string) => void): Promise<Critest> {
  const go = await readFile(join(folder, 'go.mod'), 'utf8')
  const sums = await readFile(join(folder, 'go.sum'), 'utf8')
  const version = new RegExp(`${moduleName} (v\\S+)`).exec(go)?.[1]
  if (version === undefined) throw new Error(`test/conformance/go.mod does not require ${moduleName}`)
  const hash = createHash('sha256').update(go).update(sums).update(digest).digest('hex').slice(0, 12)
  const path = join(conformanceDir, `critest-${hash}`)
  if (existsSync(path)) return { path, version }
  say(`conformance: building critest ${version}`)
  await mkdir(conformanceDir, { recursive: true })
  const options = { cwd: folder, env: { CGO_ENABLED: '0', GOFLAGS: '-mod=readonly' } }
  await execa('make', ['conformance-modules'], { cwd: join(folder, '../..') })
  const { stdout: dir } = await execa('go', ['list', '-m', '-f', '{{.Dir}}', moduleName], options)
  await using source = await patchedCopy(dir.trim(), digest)
  await writeFile(join(source.path, 'build.mod'), `${go}\nreplace ${moduleName} => ${source.path}/module\n`)
  await writeFile(join(source.path, 'build.sum'), sums)
  const build = ['test', '-c', '-vet=off', '-trimpath', '-ldflags=-s -w', `-modfile=${source.path}/build.mod`]
  await execa('go', [...build, '-o', `${path}.building`, `${moduleName}/cmd/critest`], options)
  await rename(`${path}.building`, path)
  return { path, version }
}

/** The module with the digest replaced, for as long as it is being compiled. */
async function patchedCopy(module: string, digest: string): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(conformanceDir, 'source-'))
  await cp(module, join(path, 'module'), { recursive: true })
  // The module cache is read-only, and so is a copy of it.
  await execa('chmod', ['-R', 'u+w', path])
  const file = join(path, 'module/pkg/validate/consts.go')
  const source = await readFile(file, 'utf8')
  // The same name behind "win-" is for Windows.
  const replaced = source.replace(/("test-image-digest@)sha256:[0-9a-f]{64}"/, `$1${digest}"`)
  if (replaced === source) throw new Error(`${file} names no test-image-digest: critest has changed, look at its images again`)
  await writeFile(file, replaced)
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

/** One test of critest. */
export interface Spec {
  /** Top of its place in critest's tree, without the mark that all have. */
  readonly group: string
  /** The rest of its place, and its own text. */
  readonly name: string
  /** All of it, as critest matches it. */
  readonly text: string
  /** Whether it must have the runtime to itself. */
  readonly serial: boolean
}

/** What became of a spec, in ginkgo's words. */
export interface SpecReport {
  readonly spec: Spec
  readonly state: string
  /** Of a failure, or the reason of a skip; empty for others. */
  readonly message: string
  readonly seconds: number
}

/** Reads ginkgo's JSON report. */
export function readReport(json: string): SpecReport[] {
  return leavesOf(json).map(({ path, labels, state, message, seconds }) => {
    const [top, ...rest] = path
    // A label of critest's own, not ginkgo's decorator of that name.
    const spec = { group: clean(top), name: clean(rest.join(': ')), text: path.join(' '), serial: labels.includes('Serial') }
    return { spec, state, message, seconds }
  })
}

/** Marks for critest's own selection say nothing here. */
function clean(text: string): string {
  return text.replaceAll(/\s*\[(k8s\.io|Conformance)\]\s*/g, ' ').trim()
}

/** Every spec of critest that is no benchmark, in the order of its text. */
export async function listSpecs({ path }: Critest): Promise<Spec[]> {
  const file = join(conformanceDir, 'specs.json')
  await execa(path, ['-ginkgo.dry-run', `-ginkgo.json-report=${file}`], { stdin: 'ignore' })
  const specs = readReport(await readFile(file, 'utf8')).filter(({ state }) => state === 'passed').map(({ spec }) => spec)
  return specs.toSorted((a, b) => (a.text < b.text ? -1 : 1))
}
