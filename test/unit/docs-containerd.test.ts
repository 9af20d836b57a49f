/** docs/containerd.md says what the test node runs. */
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { parse } from 'smol-toml'
import t from 'tap'
import { containerdConfig } from '#test/node/containerd.ts'

const text = await readFile(resolve(import.meta.dirname, '../../docs/containerd.md'), 'utf8')
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
