/** Our end of the ttrpc benchmark, calling: `ttrpc-client.ts SOCKET FLIGHT CALLS` prints what `peer bench` prints. */
import { once } from 'node:events'
import net from 'node:net'
import { TtrpcClient } from '#shared/ttrpc/index.ts'
import { peerService } from '#test/peer-go/service.ts'

const [path = '', flight = '1', calls = '1'] = process.argv.slice(2)
const socket = net.connect(path)
await once(socket, 'connect')
const client = new TtrpcClient(socket)
const { Echo } = client.calls(peerService)
const request = { value: Buffer.alloc(100) }

/** Makes so many calls with `flight` in flight, and returns how long each took. */
async function repeat(count: number): Promise<Float64Array> {
  const micros = new Float64Array(count)
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) {
      const i = next++
      const startMs = performance.now()
      await Echo(request)
      micros[i] = (performance.now() - startMs) * 1000
    }
  }
  await Promise.all(Array.from({ length: Number(flight) }, worker))
  return micros
}

// A tenth of the calls warms both ends up, as the Go peer does it.
await repeat(Math.floor(Number(calls) / 10) + 1)
const startMs = performance.now()
const micros = await repeat(Number(calls))
const elapsedMs = performance.now() - startMs
micros.sort()
console.log(JSON.stringify({
  callsPerSecond: (micros.length / elapsedMs) * 1000,
  p50Us: micros[Math.floor(micros.length / 2)],
  p99Us: micros[Math.floor((micros.length * 99) / 100)],
}))
client.close()
