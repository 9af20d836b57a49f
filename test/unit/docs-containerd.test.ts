/** docs/containerd.md says what the test node runs, and docs/kubernetes.md what docs/containerd.md says. */
import { globSync, statSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import t from 'tap'
import { containerdConfig } from '#test/node/containerd.ts'
import { checkout } from '#test/node/paths.ts'

const read = (path: string) => readFile(join(checkout, path), 'utf8')
const text = await read('docs/containerd.md')
const documented = parse(/```toml\n([\s\S]*?)```/.exec(text)?.[1] ?? '')

t.match(parse(containerdConfig({ sandboxers: ['kuasar-qemu'] })), documented, 'every documented line, with its value')

const runtime = (config: object): unknown =>
  ['plugins', 'io.containerd.cri.v1.runtime', 'containerd', 'runtimes', 'kuasar-qemu'].reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? Reflect.get(at, key) : undefined),
    config,
  )
const documentedRuntime = runtime(documented)
t.type(documentedRuntime, 'object')
t.same(runtime(parse(containerdConfig())), documentedRuntime, 'and no line of the runtime that is not documented')
for (const key of Object.keys(documentedRuntime ?? {})) t.match(text, new RegExp(`^\\| \`${key}`, 'm'), `${key} has its reason`)

const kubernetes = await read('docs/kubernetes.md')

/** What the pattern's group matches on the page: once, or each time the same. */
function only(page: string, pattern: RegExp): string {
  const [found, ...others] = new Set([...page.matchAll(pattern)].map((match) => match[1]))
  if (found === undefined || others.length > 0) throw new Error(`${pattern} is there ${found === undefined ? 'nowhere' : `as ${[found, ...others].join(' and ')}`}`)
  return found
}

t.test('docs/kubernetes.md names what docs/containerd.md sets up', async (t) => {
  t.equal(only(kubernetes, /^handler: (\S+)/gm), only(text, /\.containerd\.runtimes\.(\S+)\]/g), 'the handler is containerd’s runtime')
  const name = only(kubernetes, /^kind: RuntimeClass\nmetadata:\n {2}name: (\S+)/gm)
  t.equal(only(text, /`runtimeClassName: (\S+)`/g), name)
  t.equal(only(kubernetes, /^ {2}runtimeClassName: (\S+)/gm), name, 'the pod asks for it')
  t.equal(only(kubernetes, /kubectl delete runtimeclass (\S+)/g), name)
  const label = only(kubernetes, /nodeSelector:\n {4}(\S+): "true"/g)
  t.equal(only(kubernetes, /kubectl label node NODE (\S+)=true/g), label, 'nodes get the label by which they are selected')
  t.equal(only(kubernetes, /kubectl label node NODE (\S+)-$/gm), label)
})

t.test('what the installation puts somewhere the way back takes away', async (t) => {
  const back = kubernetes.slice(kubernetes.indexOf('To leave,'))
  const paths = [
    ...[...text.matchAll(/^(?:install|ln) .*? (\/\S+)/gm)].map((match) => match[1] ?? ''),
    only(text, /`(\/etc\/containerd\/conf\.d\/\S+)`:$/gm),
    only(text, /^`(\/etc\/systemd\/\S+)`:$/gm),
    only(text, /^ExecStart=(\/opt\/[^/]+)/gm),
  ]
  t.equal(paths.length, 7)
  for (const path of paths) t.match(back, new RegExp(`^rm .*${path}( |$)`, 'm'), path)
  t.match(back, 'systemctl disable --now kuasar-sandboxer')
})

t.test('kuasarctl, which is linked into PATH, can be run', async (t) => {
  const program = only(text, /^ln -sf "\$PWD\/(\S+)" \/usr\/local\/bin\/kuasarctl$/gm)
  t.equal(statSync(join(checkout, program)).mode & 0o111, 0o111, program)
})

t.test('the overhead covers the guest’s reserve, or its least size, and what a VM takes beside its memory', async (t) => {
  const rows = [...kubernetes.matchAll(/^\|[^|]+\| (?:up to )?(\d+) MiB \| (?:up to )?(\d+) MiB \| ([^|]+) \|$/gm)].map(([, emulated, kvm, configuredAs]) => ({ emulated: Number(emulated), kvm: Number(kvm), configuredAs }))
  t.match(rows, [{ configuredAs: '`guest.reserve_mib`' }, { configuredAs: '`guest.memory_mib_min`' }, { configuredAs: /^nothing/ }])
  const [reserve, least, beside] = rows
  t.match(parse(await read('host/config/config.toml')), { guest: { reserve_mib: reserve?.emulated, memory_mib_min: least?.emulated } })
  const [, emulated, kvm] = /^ {4}memory: (\d+)Mi .*; (\d+)Mi where there is KVM/m.exec(kubernetes) ?? []
  // A pod's limits may be next to nothing: its VM then has its least size all the same.
  t.ok(Number(emulated) >= (least?.emulated ?? NaN) + (beside?.emulated ?? NaN), `${emulated}Mi emulated`)
  t.ok(Number(kvm) >= (least?.kvm ?? NaN) + (beside?.kvm ?? NaN), `${kvm}Mi under KVM`)
  t.ok((least?.emulated ?? NaN) >= (reserve?.emulated ?? NaN))
})

const columns = (row: string) => row.replaceAll(String.raw`\|`, '').split('|').length - 2

t.test('tables are tables: a row has its header’s columns, and none stands alone', async (t) => {
  const pages = globSync(['*.md', 'docs/*.md', '{bench,guest,host,image,proto,shared,test}/**/*.md'], { cwd: checkout })
  t.ok(pages.length > 10)
  for (const page of pages) {
    const prose = (await read(page)).replaceAll(/```[^]*?```/g, '')
    for (const table of prose.match(/^\|.*(\n\|.*)*/gm) ?? []) {
      const rows = table.split('\n')
      const [header = '', rule = ''] = rows
      t.match(rule, /^\|[ |:-]+\|$/, `${page}: below a header is a rule: ${header}`)
      t.same(rows.filter((row) => columns(row) !== columns(header)), [], `${page}: ${header}`)
    }
  }
})
