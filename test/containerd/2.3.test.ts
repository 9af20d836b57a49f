/** A pod's life under containerd 2.3. */
import t from 'tap'
import { life } from './life.ts'

await life(t, '2.3')
