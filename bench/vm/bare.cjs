// Stands in for the agent: bare Node that says how long after PID 1's agent-exec mark it runs its first line, and ends.
'use strict'
const now = process.hrtime.bigint()
const mark = /agent-exec:(\d+)$/.exec(process.env.KUASAR_BOOT_MARKS)
console.log(`bare node: ${now - BigInt(mark[1])} ns, uptime ${process.uptime()} s`)
