/** All benchmarks, in the order they run. */
import type { Benchmark } from './benchmark.ts'
import { agent } from './agent.ts'
import { calls } from './calls.ts'
import { exec } from './exec.ts'
import { memory } from './memory.ts'
import { network } from './network.ts'
import { overhead } from './overhead.ts'
import { probes } from './probes.ts'
import { start } from './start.ts'

export const benchmarks: readonly Benchmark[] = [start, exec, probes, agent, calls, network, memory, overhead]
