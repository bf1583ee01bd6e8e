{{/* The Deployment of a service: {root, component, values, more, checksum}; `more` is its own {env, volumes}. */}}
{{- define "marsam.deployment" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $tls := include "marsam.tls" $root -}}
{{- $equipment := include "marsam.equipment" . | fromYaml -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "marsam.metadata" (dict "root" $root "component" .component "suffix" (printf "-%s" .component)) | nindent 2 }}
spec:
  {{- if or (not (dig "autoscaling" "enabled" false $values)) (and (eq .component "generator") $root.Values.triton.enabled) }}
  replicas: {{ dig "replicas" 1 $values | int64 }}
  {{- end }}
  revisionHistoryLimit: 5
  {{- if hasKey $values "strategy" }}
  strategy: {{- toYaml $values.strategy | nindent 4 }}
  {{- else }}
  # Two trainers at once would only wait for each other.
  strategy: {type: Recreate}
  {{- end }}
  selector:
    matchLabels: {{- include "marsam.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "marsam.podLabels" (dict "root" $root "component" .component "extra" $values.podLabels) | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .component }}
        {{- if and $root.Values.metrics.annotations (not $root.Values.metrics.serviceMonitor.enabled) }}
        prometheus.io/scrape: "true"
        prometheus.io/port: "8080"
        prometheus.io/path: /metrics
        prometheus.io/scheme: {{ ternary "https" "http" (ne $tls "") }}
        {{- end }}
        {{- with .checksum }}
        checksum/config: {{ . }}
        {{- end }}
        {{- range $key, $value := $values.podAnnotations }}
        {{ $key | quote }}: {{ include "marsam.plain" $value | quote }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "marsam.serviceAccountName" . | quote }}
      automountServiceAccountToken: {{ eq .component "trainer" }}
      enableServiceLinks: false
      {{- with include "marsam.pullSecrets" $root }}
      imagePullSecrets: {{- . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "marsam.podSecurityContext" $root | nindent 8 }}
      terminationGracePeriodSeconds: {{ add $values.drainSeconds $values.graceSeconds 15 }}
      containers:
        - name: {{ .component }}
          image: {{ include "marsam.image" (dict "root" $root "image" $values.image) | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          securityContext: {{- include "marsam.securityContext" $root | nindent 12 }}
          env: {{- include "marsam.env" $equipment | nindent 12 }}
          ports:
            - {name: grpc, containerPort: 5000, protocol: TCP}
            - {name: http, containerPort: 8080, protocol: TCP}
          # Ten minutes: a start proves the store and may take up much.
          startupProbe:
            {{- include "marsam.readiness" $tls | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 120
          readinessProbe:
            {{- include "marsam.readiness" $tls | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 3
          # The event loop's own heartbeat, never work: two minutes without one is a hang, less is a busy moment.
          livenessProbe:
            httpGet: {path: /healthz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (ne $tls "") }}}
            periodSeconds: 15
            timeoutSeconds: 10
            failureThreshold: 8
          resources: {{- include "marsam.resources" (dict "given" $values.resources "count" (dig "gpus" 0 $values) "resourceName" (dig "gpuResourceName" "" $values)) | nindent 12 }}
          volumeMounts: {{- include "marsam.mounts" $equipment.volumes | nindent 12 }}
      volumes: {{- include "marsam.volumes" $equipment.volumes | nindent 8 }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "marsam.tolerations" (dict "given" $values.tolerations "gpus" (dig "gpus" 0 $values)) }}
      tolerations: {{- . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with dig "topologySpreadConstraints" list $values }}
      topologySpreadConstraints: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- with $values.runtimeClassName }}
      runtimeClassName: {{ . | quote }}
      {{- end }}
{{- end -}}

{{/* The kubelet's gRPC probe speaks no TLS: there, the HTTP port says the same. */}}
{{- define "marsam.readiness" -}}
{{- if . -}}
httpGet: {path: /readyz, port: http, scheme: HTTPS}
{{- else -}}
grpc: {port: 5000}
{{- end -}}
{{- end -}}
