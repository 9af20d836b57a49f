/** The examples of shared/'s READMEs, as whoever installs those parts types them: they compile, and do what they say. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { execa } from 'execa'
import t, { type Test } from 'tap'

const root = `${import.meta.dirname}/../..`
const proto = `syntax = "proto3";
package example;
service Greeter {
  rpc Hello(Name) returns (Text);
  rpc Watch(Name) returns (stream Text);
}
message Name { string name = 1; }
message Text { string text = 1; }
`

/** All TypeScript of a README, in its order. */
async function examples(part: string): Promise<string> {
  const readme = await readFile(`${root}/shared/${part}/README.md`, 'utf8')
  return [...readme.matchAll(/```ts\n([^]*?)```/g)].map(([, example]) => example).join('')
}

/** Compiles it inside the checkout, where it finds its packages and the compiler its options; answers the directory. */
async function compile(t: Test, part: string, example: string): Promise<string> {
  const directory = `${root}/build/test/${part}-readme-${process.pid}`
  await mkdir(directory, { recursive: true })
  t.teardown(() => rm(directory, { recursive: true }))
  await writeFile(`${directory}/example.ts`, example)
  await writeFile(`${directory}/tsconfig.json`, JSON.stringify({ extends: '../../../tsconfig.json', include: ['example.ts'] }))
  // tap's hooks, in NODE_OPTIONS, are not for the compiler.
  const compiled = await execa({ cwd: directory, preferLocal: true, localDir: root, reject: false })`env -u NODE_OPTIONS tsc -p .`
  t.match(compiled, { stdout: '', exitCode: 0 })
  return directory
}

t.test('ttrpc: the example compiles and runs', async (t) => {
  const example = await examples('ttrpc')
  t.match(example, "from 'ttrpc-ts'")
  const here = example.replace("'ttrpc-ts'", "'../../../shared/ttrpc/index.ts'").replaceAll('/run/greeter.sock', 'greeter.sock')
  const directory = await compile(t, 'ttrpc', `${here}\nprocess.exit()\n`)
  await writeFile(`${directory}/greeter.proto`, proto)
  const { stdout } = await execa({ cwd: directory })`env -u NODE_OPTIONS ${process.execPath} example.ts`
  t.equal(stdout, 'clock 1\nclock 2\nclock 3')
})

t.test('os: the examples compile', async (t) => {
  const example = await examples('os')
  t.match(example, 'await os.vsock.connect')
  await compile(t, 'os', `${example}\nexport { listener, secure }\n`)
})
