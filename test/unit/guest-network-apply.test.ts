/** The guest's network put into effect by a real `ip`, in a network namespace instead of a VM. */
import { join } from 'node:path'
import t from 'tap'

const script = join(import.meta.dirname, '../support/guest-network.ts')
const inNamespace = 'mount -t sysfs sysfs /sys && exec "$0" "$1"'
await t.spawn('unshare', ['--net', '--mount', 'sh', '-c', inNamespace, process.execPath, script], {}, 'in a namespace')
