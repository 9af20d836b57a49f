import t from 'tap'
import { bars } from '#shared/trace/bars.ts'
import { page } from '#shared/trace/page.ts'
import { waterfall } from '#shared/trace/span.ts'

const spans = [
  { name: 'guest.kernel', startMs: 1200, endMs: 1700, source: 'guest' },
  { name: 'RunPodSandbox', startMs: 1000, endMs: 2000, source: 'cri' },
  { name: 'clock went back', startMs: 1900, endMs: 1899, source: 'guest' },
]

const blocks = (line: string | undefined) => (line?.match(/█/g) ?? []).length

t.test('a waterfall is ordered and measured on one line', async (t) => {
  const chart = waterfall('pod start', spans)
  t.same(
    chart.spans.map((span) => span.name),
    ['RunPodSandbox', 'guest.kernel', 'clock went back'],
  )
  t.equal(chart.totalMs, 1000)
  t.equal(chart.spans[2]?.endMs, 1900, 'a span that ends before it starts becomes a point')
  t.equal(waterfall('nothing', []).totalMs, 0)
})

t.test('bars keep to the width and to the scale', async (t) => {
  const text = bars(waterfall('pod start', spans), { width: 80 })
  const lines = text.trimEnd().split('\n')
  t.equal(lines.length, 5)
  for (const line of lines) t.ok(line.length <= 80, line)
  t.ok(blocks(lines[2]) > blocks(lines[3]), 'the longer span has the longer bar')
  t.ok(Math.abs(blocks(lines[2]) - 2 * blocks(lines[3])) <= 2, 'half the time is half the bar')
  t.match(lines[4], /▏/, 'a point is still visible')
})

t.test('the page stands alone and escapes what a guest wrote', async (t) => {
  const html = page(waterfall('pod <b>', [{ ...spans[0]!, name: '<script>alert(1)</script>' }]), { kernel: '6.1 & more' })
  t.notMatch(html, /<script/i)
  t.notMatch(html, /https?:\/\//)
  t.match(html, '6.1 &amp; more')
  t.match(html, 'pod &lt;b&gt;')
})
