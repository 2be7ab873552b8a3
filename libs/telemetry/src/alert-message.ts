/** An alert that the receiver does not know of as it is. */
export interface Untold {
  id: string; kind: string; subject: string; severity: string; device: string | null; workload: string | null; rollout: string | null; labels: Record<string, string> | null;
  closed: boolean; openedAt: Date; closedAt: Date | null; tries: number; times: number; summary: string; advice: string; numbers: Record<string, unknown>;
}

/** https://prometheus.io/docs/alerting/latest/configuration/#webhook_config, of alerts of one kind that are all open or all closed. */
export function messageOf(alerts: readonly Untold[], consoleUrl?: string): Record<string, unknown> {
  const status = alerts[0]!.closed ? 'resolved' : 'firing';
  const told = alerts.map((one) => ({
    status,
    labels: {
      alertname: one.kind, severity: one.severity,
      ...(one.device ? { device: one.device } : {}), ...(one.workload ? { workload: one.workload } : {}), ...(one.rollout ? { rollout: one.rollout } : {}),
      // As kube-state-metrics puts labels into names that Prometheus allows.
      ...Object.fromEntries(Object.entries(one.labels ?? {}).map(([key, value]) => [`label_${key.replaceAll(/[^A-Za-z0-9_]/g, '_')}`, value])),
    } as Record<string, string>,
    annotations: { summary: one.summary, description: one.advice, numbers: JSON.stringify(one.numbers), times: String(one.times) },
    startsAt: one.openedAt.toISOString(), endsAt: one.closedAt?.toISOString() ?? '0001-01-01T00:00:00Z',
    generatorURL: consoleUrl ? new URL(`alerts/${one.id}`, consoleUrl.replace(/\/*$/, '/')).href : '',
    // The same for opening and closing.
    fingerprint: one.id.replaceAll('-', '').slice(0, 16),
  }));
  const common = (pick: (one: (typeof told)[number]) => Record<string, string>) => Object.fromEntries(Object.entries(pick(told[0]!)).filter(([key, value]) => told.every((one) => pick(one)[key] === value)));
  return {
    version: '4', groupKey: `{}:{alertname="${alerts[0]!.kind}"}`, truncatedAlerts: 0, status, receiver: 'reefkeeper', groupLabels: { alertname: alerts[0]!.kind },
    commonLabels: common(({ labels }) => labels), commonAnnotations: common(({ annotations }) => annotations), externalURL: consoleUrl ?? '', alerts: told,
  };
}
