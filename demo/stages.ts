/** A pod's start in the few stages that everybody knows it by, each made of spans that were recorded. */
import type { Span } from '#shared/trace/span.ts'

interface Stage {
  readonly name: string
  /** The recorded spans it is made of */
  readonly of: readonly string[]
  /** Ends where this one begins instead of with its own */
  readonly until?: string
}

/** In order. What a guest marks is a moment, and its span lasts until the next (host/sandbox/trace.ts). */
const stages: readonly Stage[] = [
  { name: 'Create', of: ['create'] },
  { name: 'VMM spawn', of: ['qemu'] },
  { name: 'kernel', of: ['guest.kernel'] },
  { name: 'init', of: ['guest.init', 'guest.drivers', 'guest.switch-root', 'guest.mounts', 'guest.modules'] },
  { name: 'agent', of: ['guest.agent-exec', 'guest.agent-main'] },
  // "ready" lasts from Hello's arrival to Ready's; "guest.hello" begins when the answer to Hello is in the guest.
  { name: 'Hello', of: ['ready'], until: 'guest.hello' },
  { name: 'Ready', of: ['guest.hello', 'guest.configured', 'guest.listening'] },
  { name: 'Prepare', of: ['prepare'] },
  { name: 'crun create', of: ['guest.crun-create'] },
]

/** The stages, and the recorded spans that are none by themselves. */
export function staged(recorded: readonly Span[]): { readonly stages: readonly Span[]; readonly steps: readonly Span[] } {
  const whole = stages.filter(({ of }) => of.length === 1).flatMap(({ of }) => of)
  return {
    stages: stages.flatMap((stage) => drawn(stage, recorded)),
    steps: recorded.filter(({ name }) => !whole.includes(name)),
  }
}

/** Nothing of a stage that was not recorded. */
function drawn({ name, of, until }: Stage, recorded: readonly Span[]): Span[] {
  const parts = recorded.filter((span) => of.includes(span.name))
  const [first] = parts
  if (first === undefined) return []
  const startMs = Math.min(...parts.map((span) => span.startMs))
  const endMs = recorded.find((span) => span.name === until)?.startMs ?? Math.max(...parts.map((span) => span.endMs))
  return [{ ...first, name, startMs, endMs }]
}
