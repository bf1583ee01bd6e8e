{{/* The Deployment of a service: {root, component, values, env, volumes, mounts}; the last three are YAML lists. */}}
{{- define "marsam.deployment" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $tls := include "marsam.tls" $root -}}
{{- $scaled := dig "autoscaling" "enabled" false $values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "marsam.metadata" (dict "root" $root "component" .component "suffix" (printf "-%s" .component)) | nindent 2 }}
spec:
  {{- if not $scaled }}
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
        {{- end }}
        {{- with .checksum }}
        checksum/config: {{ . }}
        {{- end }}
        {{- range $key, $value := $values.podAnnotations }}
        {{ $key | quote }}: {{ $value | toString | quote }}
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
          env:
            - {name: HOME, value: /tmp}
            - {name: MARSAM_STORE, value: {{ $root.Values.store.url | quote }}}
            - {name: MARSAM_CACHE, value: /cache}
            - {name: MARSAM_LISTEN, value: {{ printf "%s:5000" (include "marsam.grpcListen" $root) | quote }}}
            - {name: MARSAM_HTTP_LISTEN, value: {{ printf "%s:8080" (include "marsam.grpcListen" $root) | quote }}}
            - {name: MARSAM_TOKEN_FILE, value: {{ printf "/etc/marsam/tokens/%s" $root.Values.auth.key | quote }}}
            {{- if $tls }}
            - {name: MARSAM_TLS_CERT_FILE, value: /etc/marsam/tls/tls.crt}
            - {name: MARSAM_TLS_KEY_FILE, value: /etc/marsam/tls/tls.key}
            {{- end }}
            {{- if $root.Values.tls.clientCaSecret }}
            - {name: MARSAM_TLS_CLIENT_CA_FILE, value: {{ printf "/etc/marsam/client-ca/%s" $root.Values.tls.clientCaKey | quote }}}
            {{- end }}
            - {name: MARSAM_DRAIN_SECONDS, value: {{ include "marsam.plain" $values.drainSeconds | quote }}}
            - {name: MARSAM_GRACE_SECONDS, value: {{ include "marsam.plain" $values.graceSeconds | quote }}}
            - {name: MARSAM_LOG_LEVEL, value: {{ $root.Values.logLevel | quote }}}
            {{- include "marsam.storeEnv" $root | nindent 12 }}
            {{- with $root.Values.store.publicEndpoint }}
            - {name: MARSAM_S3_PUBLIC_ENDPOINT, value: {{ . | quote }}}
            {{- end }}
            {{- include "marsam.settings" $values.settings | nindent 12 }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- include "marsam.extraEnv" $values.extraEnv | nindent 12 }}
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
            httpGet: {path: /healthz, port: http}
            periodSeconds: 15
            timeoutSeconds: 10
            failureThreshold: 8
          resources:
            {{- include "marsam.resources" (dict "given" $values.resources "count" (dig "gpus" 0 $values) "resourceName" (dig "gpuResourceName" "" $values)) | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: cache, mountPath: /cache}
            - {name: tokens, mountPath: /etc/marsam/tokens, readOnly: true}
            {{- if $tls }}
            - {name: tls, mountPath: /etc/marsam/tls, readOnly: true}
            {{- end }}
            {{- if $root.Values.tls.clientCaSecret }}
            - {name: client-ca, mountPath: /etc/marsam/client-ca, readOnly: true}
            {{- end }}
            {{- include "marsam.storeMounts" $root | nindent 12 }}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "marsam.cacheVolume" $values.cache | nindent 8 }}
        - name: tokens
          secret: {secretName: {{ $root.Values.auth.existingSecret | quote }}, defaultMode: 0440}
        {{- if $tls }}
        - name: tls
          secret: {secretName: {{ include "marsam.tlsSecret" $root | quote }}, defaultMode: 0440}
        {{- end }}
        {{- with $root.Values.tls.clientCaSecret }}
        - name: client-ca
          secret: {secretName: {{ . | quote }}, defaultMode: 0440}
        {{- end }}
        {{- include "marsam.storeVolumes" $root | nindent 8 }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
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

{{/* The kubelet's gRPC probe speaks no TLS: there, HTTP says the same. */}}
{{- define "marsam.readiness" -}}
{{- if . -}}
httpGet: {path: /readyz, port: http}
{{- else -}}
grpc: {port: 5000}
{{- end -}}
{{- end -}}

{{- define "marsam.extraEnv" -}}
{{- range . }}
- name: {{ .name | quote }}
  {{- if hasKey . "valueFrom" }}
  valueFrom: {{- toYaml .valueFrom | nindent 4 }}
  {{- else }}
  value: {{ .value | toString | quote }}
  {{- end }}
{{- end }}
{{- end -}}
