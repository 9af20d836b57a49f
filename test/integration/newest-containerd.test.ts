/** A pod's life under the newest line of containerd that is known here. `make containerds` has the others. */
import t from 'tap'
import { life } from '#test/containerd/life.ts'
import { lines } from '#test/containerd/line.ts'

await life(t, lines.at(-1) ?? '')
