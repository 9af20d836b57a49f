.PHONY: lab
lab: deps gen parts agent-tools image node ## tests on a machine of its own: systemd, cgroup v2, KVM (emulated)
	@node tools/test.ts lab

.PHONY: lab-shell
lab-shell: node sandboxer image ## look around in such a machine
	@node test/lab/shell.ts
