/** The example of shared/os's README compiles. Those of the packages are run where they are installed (packages.test.ts). */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { execa } from 'execa'
import t from 'tap'

const root = `${import.meta.dirname}/../..`

t.test('os: the example compiles', async (t) => {
  const readme = await readFile(`${root}/shared/os/README.md`, 'utf8')
  const example = [...readme.matchAll(/```ts\n([^]*?)```/g)].map(([, example]) => example).join('')
  t.match(example, 'await os.vsock.connect')
  // Inside the checkout, where it finds its packages and the compiler its options.
  const directory = `${root}/build/test/os-readme-${process.pid}`
  await mkdir(directory, { recursive: true })
  t.teardown(() => rm(directory, { recursive: true }))
  await writeFile(`${directory}/example.ts`, `${example}\nexport { listener }\n`)
  await writeFile(`${directory}/tsconfig.json`, JSON.stringify({ extends: '../../../tsconfig.json', include: ['example.ts'] }))
  // tap's hooks, in NODE_OPTIONS, are not for the compiler.
  const compiled = await execa({ cwd: directory, preferLocal: true, localDir: root, reject: false })`env -u NODE_OPTIONS tsc -p .`
  t.match(compiled, { stdout: '', exitCode: 0 })
})
