/**
 * The agent, and beside it the floor of an exec: on a vsock port of its own it forks a program of the guest's file
 * system as the agent forks crun, and answers when that has exited. Only images of benchmarks hold it.
 *
 *   → /run/kuasar/roots/<id>/rootfs/bin/busybox\n       absolute path of busybox, asked for `true`
 *   ← 0\n                                                exit code
 */
import { startupSnapshot } from 'node:v8'
import { main } from '#guest/main.ts'
import { createNativeOs } from '#shared/os/native.ts'

const PORT = 1027

function withFloor(): void {
  main()
  const { vsock, processes } = createNativeOs()
  void vsock.listen(PORT, (socket) => {
    socket.on('error', () => socket.destroy())
    socket.setEncoding('utf8').on('data', (line: string) => {
      const { ended } = processes.spawn({ file: line.trimEnd(), args: ['true'], env: {}, stdio: undefined })
      void ended.then(({ exitCode }) => socket.write(`${exitCode ?? 128}\n`))
    })
  })
}

if (startupSnapshot.isBuildingSnapshot()) startupSnapshot.setDeserializeMainFunction(withFloor)
else withFloor()
