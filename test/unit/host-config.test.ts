import { mkdtemp, rm, writeFile, readFile } from 'node:fs/promises'
import t from 'tap'
import { bindBackends } from '#host/backends/index.ts'
import { parseQemuConfig } from '#host/backends/qemu/config.ts'
import { loadConfig, parseConfig } from '#host/config/config.ts'
import { createNativeOs } from '#shared/os/native.ts'
import { loadProtos } from '#shared/rpc/load.ts'
import { loadServices } from '#shared/rpc/services.ts'

const FILE = '/etc/kuasar/config.toml'
const complaint = (text: string): string => {
  try {
    parseConfig(text, FILE)
  } catch (error) {
    if (error instanceof Error) return error.message
  }
  return 'accepted'
}

t.test('the example file shows every default', async (t) => {
  const example = await readFile(new URL('../../host/config/config.toml', import.meta.url), 'utf8')
  t.same(parseConfig(example, 'config.toml'), parseConfig('', 'none'))
  const keys = (value: object): string[] => Object.entries(value).flatMap(([key, inner]) => (typeof inner === 'object' ? keys(inner) : [key]))
  for (const key of keys(parseConfig('', 'none'))) t.match(example, new RegExp(`^${key} = `, 'm'), `${key} is in the example`)
})

t.test('and every key of a VMM, with its default', async (t) => {
  const example = await readFile(new URL('../../host/config/config.toml', import.meta.url), 'utf8')
  for (const [key, value] of Object.entries(parseQemuConfig({}, 'none'))) t.ok(example.includes(`\n# ${key} = ${JSON.stringify(value)}\n`), `${key} is in the example`)
})

t.test('a table of a backend that nobody knows, or that the backend does not take', async (t) => {
  const bind = (table: { readonly kind: string } & Readonly<Record<string, unknown>>) => () => bindBackends({ b: table }, FILE, { rpc: loadServices(loadProtos()), os: createNativeOs() })
  t.throws(bind({ kind: 'qemuu' }), { code: 'INVALID_ARGUMENT', message: `${FILE}: backends.b.kind: "qemuu" is not accepted: expected one of fake, fake-shared, qemu` })
  t.throws(bind({ kind: 'constructor' }), { code: 'INVALID_ARGUMENT' })
  t.throws(bind({ kind: 'qemu', acel: 'tcg' }), { message: `${FILE}: backends.b: unknown key acel = "tcg"; did you mean accel?` })
  t.throws(bind({ kind: 'qemu', kernel: 'vmlinux' }), { message: `${FILE}: backends.b.kernel: "vmlinux" is not accepted: expected an absolute path without ","` })
})

t.test('each mistake is named with its file, key, value and what was expected', async (t) => {
  const cases: readonly (readonly [string, string])[] = [
    ['[sandboxer]\nlog_level = "loud"', `${FILE}: sandboxer.log_level: "loud" is not accepted: expected one of "trace", "debug", "info", "warn", "error"`],
    ['[sandboxer]\nlog_levle = "info"', `${FILE}: sandboxer: unknown key log_levle = "info"; did you mean log_level?`],
    ['[contanerd]', `${FILE}: unknown key contanerd = {}; did you mean containerd?`],
    ['[sandboxer]\nlisten = "run/x"', `${FILE}: sandboxer.listen: "run/x" is not accepted: expected an absolute path without ":"`],
    ['[sandboxer]\nlisten = "/run/a:b"', `${FILE}: sandboxer.listen: "/run/a:b" is not accepted: expected an absolute path without ":"`],
    ['[limits]\nstart_ms = 0', `${FILE}: limits.start_ms: 0 is not accepted: expected at least 1`],
    ['[limits]\nstart_ms = "1"', `${FILE}: limits.start_ms: "1" is not accepted: expected a number`],
    ['[backends.a]\nkind = "qemu"\nwarm = -1', `${FILE}: backends.a.warm: -1 is not accepted: expected at least 0`],
    ['[backends.a]\nkind = "qemu"\nwarm = 65', `${FILE}: backends.a.warm: 65 is not accepted: expected at most 64`],
    ['[backends.a]\nkind = "qemu"\nwarm = 1.5', `${FILE}: backends.a.warm: 1.5 is not accepted: expected a whole number`],
    ['[backends.a]', `${FILE}: backends.a.kind: a missing value is not accepted: expected a string`],
  ]
  for (const [text, message] of cases) t.equal(complaint(text), message)
  t.match(complaint('[backends.shim]\nkind = "qemu"'), /backends\.shim: .*which containerd keeps for itself/)
  t.match(complaint('a ='), /config\.toml: not TOML: /)
  t.equal(complaint('[limits]\nstart_ms = 0\nstop_ms = 0').split('\n').length, 2, 'all at once')
})

t.test('a file that was named must exist, the usual one need not', async (t) => {
  const dir = await mkdtemp('/tmp/config-')
  t.teardown(() => rm(dir, { recursive: true }))
  await t.rejects(loadConfig(`${dir}/none.toml`), { code: 'NOT_FOUND', message: new RegExp(`cannot read the configuration ${dir}/none.toml`) })
  await writeFile(`${dir}/some.toml`, '[limits]\nstart_ms = 5\n')
  t.match(await loadConfig(`${dir}/some.toml`), { limits: { start_ms: 5, stop_ms: 10_000 } })
})
