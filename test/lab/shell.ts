/** `make lab-shell`: a lab, and lines typed are run in it by bash. The lab ends with the input. */
import { createInterface } from 'node:readline'
import { startLab } from './lab.ts'

await using lab = await startLab((line) => console.error(line))
console.error(`The lab is up; each line is a script for its bash, ctrl-D ends it. 
Its console is ${lab.dir}/console.log; with KUASAR_LAB=${lab.dir} the tests of the lab run in this one.`)
const lines = createInterface({ input: process.stdin, output: process.stderr, prompt: 'lab# ' })
lines.prompt()
for await (const line of lines) {
  const { stdout, stderr, exitCode } = await lab.exec(['bash', '-c', line])
  process.stdout.write(stdout)
  process.stderr.write(stderr)
  if (exitCode !== 0) console.error(`exit status ${exitCode}`)
  lines.prompt()
}
