import t from 'tap'
import { planMount } from '#shared/os/mount-plan.ts'

const plan = (type: string, ...options: string[]) => planMount({ source: 'src', target: '/t', type, options })
const flags = (type: string, ...options: string[]) => plan(type, ...options).map((call) => call.flags)

// Numbers from mount(2): ro 1, nosuid 2, nodev 4, noexec 8, remount 32, bind 4096, rec 16384, slave 1<<19, private 1<<18.
t.same(plan('tmpfs', 'nosuid', 'size=1m', 'mode=755'), [{ source: 'src', type: 'tmpfs', flags: 2, data: 'size=1m,mode=755' }])
t.same(plan('9p', 'constructor', '__proto__', 'toString'), [{ source: 'src', type: '9p', flags: 0, data: 'constructor,__proto__,toString' }])
t.same(flags('tmpfs'), [0])
t.same(flags('', 'bind'), [4096])
t.same(flags('none', 'rbind', 'ro', 'nodev'), [4096 | 16384, 32 | 4096 | 1 | 4], 'attributes of a bind need a remount')
t.same(flags('', 'rbind', 'rslave'), [4096 | 16384, (1 << 19) | 16384], 'propagation is a call of its own')
t.same(flags('', 'rprivate'), [(1 << 18) | 16384])
t.same(flags('', 'remount', 'bind', 'ro'), [32 | 4096 | 1])
t.same(flags('erofs', 'remount', 'ro'), [32 | 1])
t.same(flags('tmpfs', 'ro', 'nosuid', 'rw', 'suid'), [0], 'the last word wins')
t.throws(() => plan('', 'bind', 'mode=1'), { code: 'EINVAL', message: /on \/t: a bind mount cannot honour the option mode=1/ })
t.throws(() => plan(''), { code: 'EINVAL', message: /neither a type, a bind, a remount nor a propagation/ })
t.throws(() => plan('', 'ro'), { code: 'EINVAL', message: /no file-system type/ })
