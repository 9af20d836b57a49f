/** A stand-in agent: says on the console when it got there and from what, and powers the machine off. */
import { startupSnapshot } from 'node:v8'
import { createNativeOs } from '#shared/os/native.ts'

const os = createNativeOs()

function main(from: string): void {
  console.log(`HELLO ${process.env['KUASAR_BOOT_MARKS']},agent-main:${os.processes.bootTimeNanos()} ${from}`)
  os.processes.powerOff()
}

// Only in the guest: the bundle is also evaluated where its snapshot is built.
if (startupSnapshot.isBuildingSnapshot()) startupSnapshot.setDeserializeMainFunction(main, 'snapshot')
else if (process.ppid === 1) main('bundle')
