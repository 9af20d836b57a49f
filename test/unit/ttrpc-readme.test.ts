/** The example of shared/ttrpc/README.md, as whoever installs the package types it: it compiles, and does what it says. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { execa } from 'execa'
import t from 'tap'

const root = `${import.meta.dirname}/../..`
/** Inside the checkout, where the example finds its packages and the compiler its options. */
const directory = `${root}/build/test/ttrpc-readme-${process.pid}`
const proto = `syntax = "proto3";
package example;
service Greeter {
  rpc Hello(Name) returns (Text);
  rpc Watch(Name) returns (stream Text);
}
message Name { string name = 1; }
message Text { string text = 1; }
`

t.test('the example compiles and runs', async (t) => {
  const readme = await readFile(`${root}/shared/ttrpc/README.md`, 'utf8')
  const example = /```ts\n([^]*?)```/.exec(readme)?.[1] ?? ''
  t.match(example, "from 'ttrpc-ts'")
  await mkdir(directory, { recursive: true })
  t.teardown(() => rm(directory, { recursive: true }))
  const here = example.replace("'ttrpc-ts'", "'../../../shared/ttrpc/index.ts'").replaceAll('/run/greeter.sock', 'greeter.sock')
  await writeFile(`${directory}/example.ts`, `${here}\nprocess.exit()\n`)
  await writeFile(`${directory}/greeter.proto`, proto)
  await writeFile(`${directory}/tsconfig.json`, JSON.stringify({ extends: '../../../tsconfig.json', include: ['example.ts'] }))
  // tap's hooks, in NODE_OPTIONS, are not for the compiler.
  const compiled = await execa({ cwd: directory, preferLocal: true, localDir: root, reject: false })`env -u NODE_OPTIONS tsc -p .`
  t.match(compiled, { stdout: '', exitCode: 0 })
  const { stdout } = await execa({ cwd: directory })`env -u NODE_OPTIONS ${process.execPath} example.ts`
  t.equal(stdout, 'clock 1\nclock 2\nclock 3')
})
